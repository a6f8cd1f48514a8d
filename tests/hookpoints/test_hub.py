"""What people see when the Hub says no, held against a server that answers as the Hub does."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hookpoints.corpus import HubCorpus
from hookpoints.models import HubModel, load_tokenizer, model_shape
from tests.hookpoints.test_corpus import documents

ANSWERS = {
    "gated": (403, "GatedRepo", "Access to model nobody/model is restricted."),
    "mistyped id": (401, "RepoNotFound", "Repository not found"),
    "mistyped revision": (404, "RevisionNotFound", "Invalid rev id: nosuch"),
}
MODEL_SAYS = {
    "gated": r"model nobody/model: access to it is gated.*hf auth login.*model.local",
    "mistyped id": r"model nobody/model: the Hub has nothing of this name: check its spelling.*model.local",
    "mistyped revision": r"model nobody/model: it has no such revision: give a branch, tag or commit",
}
DATASET_SAYS = {
    "gated": "is a gated dataset on the Hub",
    "mistyped id": "doesn't exist on the Hub or cannot be accessed",
    "mistyped revision": "it has no such revision",
}


@contextmanager
def hub(code: int, name: str, message: str) -> Iterator[str]:
    """The address of a server that refuses every file."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else code)
            self.send_header("X-Error-Code", name)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def point_to(monkeypatch, tmp_path):
    """Makes an address the Hub, with an empty cache."""

    def point(address: str) -> None:
        import huggingface_hub.constants as constants

        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", address)

    return point


@pytest.mark.parametrize("what", ANSWERS)
def test_each_refusal_of_a_model_has_its_own_words(point_to, what):
    config = HubModel(hub="nobody/model", revision="nosuch")
    with hub(*ANSWERS[what]) as address:
        point_to(address)
        for load in (model_shape, load_tokenizer):
            with pytest.raises(ValueError, match=MODEL_SAYS[what]) as raised:
                load(config)
            assert "cannot be reached" not in str(raised.value)


@pytest.mark.parametrize("what", ANSWERS)
def test_each_refusal_of_a_dataset_has_its_own_words(point_to, what):
    with hub(*ANSWERS[what]) as address:
        point_to(address)
        with pytest.raises(ValueError, match=rf"corpus nobody/data.*{DATASET_SAYS[what]}.*corpus\.files"):
            next(documents(HubCorpus(hub="nobody/data", revision="nosuch")))


def test_an_unreachable_hub_is_tried_once_and_in_silence(point_to, capfd):
    point_to("http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"model EleutherAI/pythia-1b: the Hugging Face Hub cannot be.*model\.local"
    ):
        model_shape(HubModel(hub="EleutherAI/pythia-1b"))
    with pytest.raises(
        ConnectionError, match=r"corpus nobody/data: the Hugging Face Hub cannot be reached.*corpus\.files"
    ):
        next(documents(HubCorpus(hub="nobody/data")))
    assert time.monotonic() - started < 15, "one retry of the client alone waits for more"
    assert "Retrying" not in "".join(capfd.readouterr())


def test_offline_by_the_users_own_wish(point_to, monkeypatch):
    point_to("http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        model_shape(HubModel(hub="EleutherAI/pythia-1b"))


def test_other_errors_pass_unchanged():
    from hookpoints.hub import reading_hub

    with pytest.raises(KeyError, match="mine"), reading_hub("model x", instead="do y"):
        raise KeyError("mine")
