"""Queries TF Serving's REST interface: python rest_client.py URL MODEL JSON.

JSON has the inputs by name: '{"text": ["Hello."]}'. The answer is printed as JSON.
Needs the standard library only.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def message_of(body):
    """Returns the error of an answer; a proxy's answer may be no JSON."""
    try:
        return json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        return body.decode("utf-8", "replace").strip()[:500]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="such as http://localhost:8501")
    parser.add_argument("model")
    parser.add_argument("inputs", type=json.loads)
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--version", type=int, help="default: the latest")
    given = parser.parse_args()
    if not given.url.startswith(("http://", "https://")):
        print(
            f"Expected a URL such as http://localhost:8501. Received: {given.url}",
            file=sys.stderr,
        )
        raise SystemExit(1)
    version = "" if given.version is None else f"/versions/{given.version}"
    url = f"{given.url.rstrip('/')}/v1/models/{given.model}{version}:predict"
    body = {"signature_name": given.signature, "inputs": given.inputs}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {message_of(error.read())}", file=sys.stderr)
        raise SystemExit(1) from error
    except OSError as error:  # refused, unknown host, timed out
        reason = getattr(error, "reason", error)
        print(f"No server answers at {given.url}: {reason}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
