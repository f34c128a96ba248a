"""Upload a bundle to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from thaw.bundle.load import read_config
from thaw.errors import BundleError, first_line


def push(folder: Path, name: str, private: bool) -> str:
    """Make the repository `name`, such as `user/model`, if there is none, and upload the bundle's files.

    Links and hidden files stay behind. Returns the repository's address. Raises BundleError where the folder is no
    bundle, nobody is logged in, or the hub cannot be reached or refuses.
    """
    read_config(folder)
    if get_token() is None:
        raise BundleError("nobody is logged in to the Hugging Face hub; run `hf auth login`, or set HF_TOKEN.")
    files = [file.name for file in folder.iterdir() if file.is_file() and not file.is_symlink()]
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[file for file in files if not file.startswith(".")],
            commit_message="Upload a bundle of thaw",
        )
    except HFValidationError as error:
        raise BundleError(f"{name!r} is no name of a repository; write it as user/name.") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        why = {401: "the token is not valid", 403: "the token may not write there", 404: "there is no such user"}
        raise BundleError(
            f"the hub refused {name} ({code}: {why.get(code, first_line(error))}); run `hf auth login` with a token "
            "that may write, or mend the name."
        ) from error
    except Exception as error:  # of whichever HTTP library this version of huggingface_hub uses
        raise BundleError(
            f"the Hugging Face hub cannot be reached ({first_line(error)}); connect, and run it again."
        ) from error
    return str(address)
