"""`python -m export prompts`: other classes as a file, for devices whose text side does not run there."""

import json
import subprocess
import sys

import numpy as np
import pytest

from export.__main__ import main
from export.runtime.smile_edge import ExpressionReader
from export.runtime.smile_edge.model import read_prompts
from tests.export.sealing import seal

WORDS = {
    "pain": ["brows lowered, eyes closed", "a face in pain"],
    "no pain": ["a relaxed face"],
    "joy": ["lip corners raised"],
}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps(WORDS))
    return path


@pytest.fixture
def made(words, checkpoint, tmp_path, capsys):
    out = tmp_path / "words.prompts.json"
    assert main(["prompts", str(checkpoint), str(words), str(out)]) == 0
    assert "pain, no pain, joy" in capsys.readouterr().out
    return out


def test_the_file_answers_as_its_sentences_do(made, words, bundle, golden):
    answers = []
    for path in (words, made):
        reader = ExpressionReader(bundle, threads=1)
        reader.set_prompts(read_prompts(path))
        answers.append([reader.predict(view)["probabilities"] for view in golden["views"]])
    for by_words, by_file in zip(*answers, strict=True):
        assert set(by_words) == set(WORDS)
        np.testing.assert_allclose([by_file[k] for k in by_words], list(by_words.values()), atol=1e-6)


def test_a_device_takes_the_file_where_it_refuses_the_sentences(
    made, words, copied, golden, tmp_path, capsys
):
    """The text side of pretrained weights is open_clip's, which no device runs."""
    from export.runtime.smile_edge import main as run

    manifest = json.loads((copied / "manifest.json").read_text())
    seal(copied, text={**manifest["text"], "encoder": "open_clip ViT-B-32 laion"})
    content = json.loads(made.read_text())
    made.write_text(json.dumps({**content, "encoder": "open_clip ViT-B-32 laion"}))
    np.save(tmp_path / "face.npy", golden["views"][0])
    arguments = ["--bundle", str(copied), "--json", str(tmp_path / "face.npy"), "--prompts"]
    assert run([*arguments, str(made)]) == 0
    assert set(json.loads(capsys.readouterr().out)["probabilities"]) == set(WORDS)
    assert run([*arguments, str(words)]) == 2
    assert "python -m export prompts CHECKPOINT FILE OUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder": "open_clip ViT-B-16 x"}, "embedded by 'open_clip ViT-B-16 x'"),
        ({"encoder": None}, "is damaged"),
        ({"prompts": {"pain": "a face"}}, "is damaged"),
        ({"embeddings": {"a": [10**400, 1], "b": [1, 2]}}, "is damaged"),
        ({"embeddings": {}}, "is damaged"),
        ({"embeddings": {"a": [1.0, 2.0], "b": [1.0]}}, "is damaged"),
        ({"embeddings": {"a": [1.0, "2"], "b": [1.0, 2.0]}}, "is damaged"),
        ({"embeddings": {"a": [1.0, 2.0], "b": [2.0, 1.0]}}, "text embeddings of shape"),
        ({"embeddings": {"a": [1.0] * 128}}, "1 labels"),
    ],
)
def test_a_file_of_another_study_or_a_damaged_one_is_refused(made, bundle, change, reason):
    made.write_text(json.dumps({**json.loads(made.read_text()), **change}))
    reader = ExpressionReader(bundle, threads=1)
    with pytest.raises(ValueError, match=reason):
        reader.set_prompts(read_prompts(made))


def test_the_sentences_of_a_made_file_are_taken_wherever_sentences_are(made, checkpoint, tmp_path):
    assert main(["prompts", str(checkpoint), str(made), str(tmp_path / "again")]) == 0
    assert (tmp_path / "again").read_text() == made.read_text()
    assert main(["bundle", str(checkpoint), str(tmp_path / "bundle"), "--prompts", str(made)]) == 0
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["text"]["prompts"] == WORDS


def test_a_bundle_with_a_wrong_number_of_labels_is_refused(copied, capsys):
    from export.runtime.smile_edge import main as run

    manifest = json.loads((copied / "manifest.json").read_text())
    seal(copied, text={**manifest["text"], "labels": manifest["text"]["labels"][:-1]})
    assert run(["--bundle", str(copied), "--self-test"]) == 2
    said = capsys.readouterr().err
    assert "6 labels" in said and "text_embeddings.npy" in said and len(said.splitlines()) == 1


def test_the_commands_start_without_torch():
    """`build-engine` is for a device, where there is none; and nobody waits seconds for --help."""
    code = "import sys; sys.modules['torch'] = None; from export.__main__ import main; main(['build-engine', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--workspace-mb" in done.stdout, done.stderr
