"""The base of the runners: named arrays in, named arrays out, whatever the format.

A call that does not fit the signature is refused here, before the runtime sees it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from keras_attention.export.artifact.description import SignatureInfo

if TYPE_CHECKING:
    import numpy as np


class Runner(ABC):
    """An opened artifact. Several threads may call it at once.

    Attributes:
        signatures: Name to what the signature takes and returns.
        runtime: The runtime's name in reports.
    """

    signatures: dict[str, SignatureInfo]
    runtime: str

    def run(self, signature_name: str, /, **arrays: Any) -> "dict[str, np.ndarray]":
        """Run one signature.

        Args:
            signature_name: One of `signatures`.
            **arrays: One array, list or scalar per input, by name. Integers of another
                width are cast if they fit; a single string becomes a batch of one.

        Returns:
            dict of arrays; text as an object array of `str`.
        """
        if signature_name not in self.signatures:
            raise self.no_signature(signature_name)
        fed = self.signatures[signature_name].fit(signature_name, arrays)
        return self._run(signature_name, fed)

    def no_signature(self, name: str) -> ValueError:
        """The error of a signature that the artifact does not have."""
        return ValueError(
            f"The artifact has no signature '{name}'. Expected one of "
            f"{sorted(self.signatures)}. Received: {name!r}"
        )

    def add_descriptions(self, declared: Mapping[str, SignatureInfo]) -> None:
        """Describe the signatures as the manifest does.

        The formats themselves lose some of it: the names of axes, limits and lengths.

        Args:
            declared: The manifest's signatures. One that is about other tensors than
                those in the file is left out.
        """
        for name, found in self.signatures.items():
            info = declared.get(name)
            if info is not None and found.is_about_the_same(info):
                self.signatures[name] = info

    @abstractmethod
    def _run(
        self, signature_name: str, arrays: "dict[str, np.ndarray]"
    ) -> "dict[str, np.ndarray]":
        """Call the runtime with arrays that fit."""

    @abstractmethod
    def close(self) -> None:
        """Release the runtime. The runner cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def not_installed(
    what: str, package: str, requirement: str, error: Exception
) -> ImportError:
    """The error of a runtime that is not installed.

    Args:
        what: What was to be run, e.g. `"an ONNX file"`.
        package: The missing package.
        requirement: What `pip install` installs it with.
        error: What Python raised.
    """
    return ImportError(
        f"Running {what} needs {package}. Expected: pip install {requirement}. "
        f"Received: {error}"
    )
