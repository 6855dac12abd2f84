"""Queries TF Serving's REST interface: python rest_client.py URL MODEL JSON.

JSON has the inputs by name: '{"text": ["Hello."]}'. The answer is printed as JSON.
Needs the standard library only.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="such as http://localhost:8501")
    parser.add_argument("model")
    parser.add_argument("inputs", type=json.loads)
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--version", type=int, help="default: the latest")
    given = parser.parse_args()
    version = "" if given.version is None else f"/versions/{given.version}"
    url = f"{given.url}/v1/models/{given.model}{version}:predict"
    body = {"signature_name": given.signature, "inputs": given.inputs}
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {json.loads(error.read())['error']}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
