"""Where a checkpoint's files are: a folder here, or a copy of one on the hub."""

import re
from pathlib import Path

# Never the pickles: they are not read, and large.
WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """The folder itself if it is there, else a download of that id.

    Args:
        folder: A path, or an id of the hub: `"org/name"`.
        revision: Branch, tag or commit; only for an id.
    """
    path = Path(folder)
    if path.exists() or not isinstance(folder, str) or not _ID.fullmatch(folder):
        if revision is not None:
            raise ValueError(
                "`revision` is for an id of the hub; a folder has no revisions. "
                f"Received: revision={revision!r}, folder={folder}"
            )
        return path
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ImportError(
            "There is no such folder, and fetching an id from the hub needs "
            'huggingface_hub: pip install "keras-attention[hub]". '
            f"Received: {folder}"
        ) from error
    try:
        found = snapshot_download(folder, revision=revision, allow_patterns=WANTED)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            "There is no such folder here, and the hub did not give one of that name: "
            f"{error}. Received: {folder}, revision={revision}"
        ) from error
    return Path(found)
