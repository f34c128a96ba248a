"""Upload a bundle to the Hugging Face hub."""

import contextlib
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from thaw.bundle.load import inside, read_config
from thaw.errors import BundleError, first_line


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a bundle's files; hidden files, and links that lead out of the folder, are left out.

    Parameters
    ----------
    folder
        A bundle with a model card.
    name
        The repository, such as `user/model`; created where it does not exist.
    private
        Create it as a private one.

    Returns
    -------
    str
        The repository's address.

    Raises
    ------
    BundleError
        The folder is not a bundle with a model card, nobody is logged in, the repository exists and is public though
        `private` is asked for, or the hub cannot be reached or refuses.
    """
    read_config(folder)
    inside(folder, "model.safetensors")
    additions = _additions(folder)
    if "README.md" not in {addition.path_in_repo for addition in additions}:
        raise BundleError(f"{folder} has no model card; write a README.md that says what the model is and is not for.")
    if get_token() is None:
        raise BundleError("nobody is logged in to the Hugging Face hub; run `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        if private:
            _check_private(api, name)
        api.create_commit(name, additions, commit_message="Upload a bundle of thaw")
    except BundleError:
        raise
    except HFValidationError as error:
        raise BundleError(f"{name!r} is not the name of a repository; write it as user/name.") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        why = {401: "the token is not valid", 403: "the token may not write there", 404: "there is no such user"}
        raise BundleError(
            f"the hub refused {name} ({code}: {why.get(code, first_line(error))}); run `hf auth login` with a token "
            "that may write, or fix the name."
        ) from error
    except Exception as error:  # of whichever HTTP library this version of huggingface_hub uses
        raise BundleError(
            f"the Hugging Face hub cannot be reached ({first_line(error)}); connect, and run it again."
        ) from error
    return str(address)


def _check_private(api: HfApi, name: str) -> None:
    if not api.repo_info(name).private:
        raise BundleError(f"{name} exists and is public; make it private on the hub, or push to another name.")


def _additions(folder: Path) -> list[CommitOperationAdd]:
    additions = []
    for name in sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")):
        with contextlib.suppress(BundleError):
            additions.append(CommitOperationAdd(name, inside(folder, name)))
    return additions
