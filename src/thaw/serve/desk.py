"""The models that are served: a bundle, or a run with its bundles and its training images."""

import threading
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

from thaw.bundle.load import load, read_config
from thaw.bundle.model import Bundle
from thaw.errors import StorageError, ThawError
from thaw.serve.answer import decode_upload, predict, similar_images
from thaw.serve.similar import SimilarImages, read_similar_images
from thaw.serve.watch import state_of

LOADED = 2
"""Models that are kept in memory."""


class Desk:
    """Answers one question at a time; it may be asked from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError where `path` is neither a bundle nor a run, or a run of another format."""
        if (path / "config.json").is_file():
            self.run, self._folder = None, path
            self._bundle_arm = str(read_config(path).get("arm", "model"))
        elif (path / "recipe.toml").is_file():
            self.run, self._folder = path, path / "models"
            state_of(path)  # a run of another format is refused before anything is served
        else:
            raise StorageError(f"{path} is neither a bundle nor a run; give a folder that thaw study wrote.")
        self._asked, self._starting = threading.Lock(), threading.Lock()
        self._training: Future[SimilarImages] | None = None

    def arms(self) -> list[str]:
        """The arms that can be asked, the recommended one first."""
        if self.run is None:
            return [self._bundle_arm]
        found = sorted(path.parent.name for path in self._folder.glob("*/config.json"))
        recommended = state_of(self.run)["recommended"]
        return sorted(found, key=lambda arm: arm != recommended)

    def folder(self, arm: str) -> Path:
        """The bundle of an arm that can be asked."""
        return self._folder if self.run is None else self._folder / arm

    def prepare_training(self) -> None:
        """Begin to read the training images of a finished run, in a thread that ends with the program."""
        with self._starting:
            if self.run is not None and self._training is None and state_of(self.run)["state"] == "finished":
                self._training = Future()
                threading.Thread(target=_fulfil, args=(self._training, self.run), daemon=True).start()

    def answer(self, content: bytes, arm: str | None) -> dict[str, Any]:
        """Return the answer of `arm`, or of the recommended arm, for an encoded image. Raises ThawError."""
        with self._asked:
            arms = self.arms()
            if not arms:
                raise StorageError("no arm of this study is trained yet; ask again when one is.")
            if arm is not None and arm not in arms:
                raise StorageError(f"there is no arm {arm[:40]!r} to ask; there is {', '.join(arms)}.")
            chosen = arm or arms[0]
            folder = self.folder(chosen)
            bundle = _loaded(folder, (folder / "config.json").stat().st_mtime_ns)
            pixels = decode_upload(content, bundle.preprocessing, bundle.decode)
            similar, why = self._similar(content)
            return {"arm": chosen, **predict(bundle, pixels), "similar": similar, "similar_why": why}

    def _similar(self, content: bytes) -> tuple[list[dict[str, Any]], str]:
        """The most similar training images, or why there are none."""
        if self.run is None:
            return [], "A bundle does not hold the training images; serve its run to see the most similar ones."
        self.prepare_training()
        if self._training is None:
            return [], "Similar training images are shown once the study is finished."
        if not self._training.done():
            return [], "The training images are still being read; ask again in a moment."
        try:
            training = self._training.result()
        except ThawError as error:
            return [], f"The training images cannot be shown: {error}"
        except Exception as error:
            return [], f"The training images cannot be shown: unexpected {type(error).__name__}: {error}"
        pixels = decode_upload(content, training.dataset.preprocessing, training.decode)
        return similar_images(training, pixels), ""


@lru_cache(LOADED)
def _loaded(folder: Path, _: int) -> Bundle:
    """Load a bundle as it was at that time; one image is quick anywhere, and fp32 on the CPU is the same everywhere."""
    return load(folder, "cpu", "fp32")


def _fulfil(promised: Future[SimilarImages], run: Path) -> None:
    try:
        promised.set_result(read_similar_images(run))
    except BaseException as error:  # whoever asks for the result gets it
        promised.set_exception(error)
