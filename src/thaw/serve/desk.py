"""What is served: a bundle, or a run with its bundles and its training images."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from thaw.bundle.load import Bundle, load, read_config
from thaw.errors import StorageError, ThawError
from thaw.serve.answer import decode_upload, predict, similar_images
from thaw.serve.similar import Training, read_training
from thaw.serve.watch import state_of

LOADED = 2
"""Models that are kept in memory."""


class Desk:
    """Answers one question at a time; it may be asked from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError where `path` is neither a bundle nor a run."""
        if (path / "config.json").is_file():
            self.run, self._folder = None, path
            self._bundle_arm = str(read_config(path).get("arm", "model"))
        elif (path / "recipe.toml").is_file():
            self.run, self._folder = path, path / "models"
        else:
            raise StorageError(f"{path} is neither a bundle nor a run; give a folder that thaw study wrote.")
        self._asked = threading.Lock()
        self._load = lru_cache(LOADED)(load)
        self._training: Future[Training] | None = None

    def arms(self) -> list[str]:
        """The arms that can be asked, the recommended one first."""
        if self.run is None:
            return [self._bundle_arm]
        found = sorted(path.parent.name for path in self._folder.glob("*/config.json"))
        recommended = state_of(self.run)["recommended"]
        return sorted(found, key=lambda arm: arm != recommended)

    def bundle(self, arm: str) -> Bundle:
        """The model of an arm that can be asked."""
        # one picture at a time is quick anywhere, and fp32 on the CPU gives the same everywhere
        return self._load(self._folder if self.run is None else self._folder / arm, "cpu", "fp32")

    def prepare_training(self) -> None:
        """Begin to read the training images of a finished run, in a thread of its own."""
        if self.run is not None and self._training is None and state_of(self.run)["state"] == "finished":
            pool = ThreadPoolExecutor(1, "training images")
            self._training = pool.submit(read_training, self.run)
            pool.shutdown(wait=False)

    def answer(self, content: bytes, arm: str | None) -> dict[str, Any]:
        """What the model of `arm`, or the recommended one, says of an encoded picture. Raises ThawError."""
        with self._asked:
            arms = self.arms()
            if not arms:
                raise StorageError("no arm of this study is trained yet; ask again when one is.")
            if arm is not None and arm not in arms:
                raise StorageError(f"there is no arm {arm[:40]!r} to ask; there is {', '.join(arms)}.")
            chosen = arm or arms[0]
            bundle = self.bundle(chosen)
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
        pixels = decode_upload(content, training.dataset.preprocessing, training.decode)
        return similar_images(training, pixels), ""
