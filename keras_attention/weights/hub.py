"""Finds a checkpoint's files: a local folder, or a download from the hub."""

import re
from pathlib import Path

# Pickles are not read, and they are large.
WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """Returns a folder that exists, or downloads the checkpoint with that id.

    Args:
        folder: A path, or an id on the hub: `"org/name"`.
        revision: The branch, tag or commit on the hub; only for an id.
    """
    path = Path(folder)
    if path.exists() or not isinstance(folder, str) or not _ID.fullmatch(folder):
        if revision is not None:
            raise ValueError(
                "`revision` is for an id on the hub; a folder has no revisions. "
                f"Received: revision={revision!r}, folder={folder}"
            )
        return path
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ImportError(
            "There is no such folder, and to download an id from the hub needs "
            'huggingface_hub: pip install "keras-attention-layers[hub]". '
            f"Received: {folder}"
        ) from error
    try:
        found = snapshot_download(folder, revision=revision, allow_patterns=WANTED)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            "There is no such folder here, and it cannot be downloaded from the hub: "
            f"{error}. Received: {folder}, revision={revision}"
        ) from error
    return Path(found)
