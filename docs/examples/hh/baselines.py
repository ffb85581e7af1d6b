"""Two judges without a network, beside the reward model of a run: the longer answer, and a bag of words.

    python baselines.py [quiver-data/hh]

Reads the training and the held-out pairs of a finished run (any run of the setup `preferences`: name the folder that
its datasets lie in). The bag of words is a logistic regression on the differences of word counts; its L2 penalty is
the one that does best in cross-validation on the training pairs. Words in fewer than five of them are left out.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datakit.label import Longer
from datakit.op import Context
from schemas.dataset import Dataset
from schemas.store.commit import read_manifest

WORD = re.compile(r"[a-z']+")
RAREST = 5
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
FOLDS = 5
STEPS = 100

Floats = npt.NDArray[np.float32]


def newest(folder: Path, name: str) -> Path:
    """The newest dataset or checkpoint called `name`."""
    finished = [path.parent for path in folder.glob(f"{name}-????????/_manifest.json")]
    if not finished:
        raise SystemExit(f"{folder} holds no finished {name}: run RestIteration first, or name its folder")
    return max(finished, key=lambda path: (path / "_manifest.json").stat().st_mtime)


def bags(texts: Sequence[str]) -> list[Counter[str]]:
    """How often each word stands in each text."""
    return [Counter(WORD.findall(text.lower())) for text in texts]


def differences(chosen: list[Counter[str]], rejected: list[Counter[str]], columns: dict[str, int]) -> Floats:
    """Word counts of the chosen answer less those of the rejected one, a row for each pair."""
    counts = np.zeros((len(chosen), len(columns)), np.float32)
    for row, (good, bad) in enumerate(zip(chosen, rejected, strict=True)):
        for sign, bag in ((1.0, good), (-1.0, bad)):
            for word in bag.keys() & columns.keys():
                counts[row, columns[word]] += sign * bag[word]
    return counts


def fitted(rows: Floats, penalty: float) -> Floats:
    """Weights under which the rows score above zero: minimum of the log loss and the penalty, by Adam."""
    weights, mean, square = (np.zeros(rows.shape[1], np.float32) for _ in range(3))
    for step in range(1, STEPS + 1):
        odds = np.exp(-np.logaddexp(np.float32(0), rows @ weights))
        slope = (penalty * weights - rows.T @ odds) / len(rows)
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        weights -= 0.05 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return weights


def right(rows: Floats, weights: Floats) -> float:
    """Share of pairs whose chosen answer has strictly more, as the accuracy of a reward model counts them."""
    return float((rows @ weights > 0).mean())


def chosen_penalty(rows: Floats) -> float:
    """The penalty under which what is learnt from four fifths of the pairs is most often right about the fifth."""
    fold = np.arange(len(rows)) % FOLDS
    accuracy = {
        penalty: sum(right(rows[fold == f], fitted(rows[fold != f], penalty)) for f in range(FOLDS))
        for penalty in PENALTIES
    }
    return max(accuracy, key=lambda penalty: accuracy[penalty])


def bag_of_words(train: Dataset, held_out: Dataset) -> float:
    """Share of the held-out pairs that a logistic regression puts in the right order."""
    parts = [dataset.read(["chosen", "rejected"]).to_pydict() for dataset in (train, held_out)]
    both = [(bags(part["chosen"]), bags(part["rejected"])) for part in parts]
    pairs = Counter(word for good, bad in zip(*both[0], strict=True) for word in good.keys() | bad.keys())
    known = sorted(word for word, count in pairs.items() if count >= RAREST)
    columns = {word: number for number, word in enumerate(known)}
    rows, judged = (differences(*part, columns) for part in both)
    return right(judged, fitted(rows, chosen_penalty(rows)))


def main(arguments: Sequence[str]) -> None:
    """Print the accuracy of the reward model, of the longer answer and of a linear model on the held-out pairs."""
    folder = Path(arguments[0] if arguments else "quiver-data/hh")
    train, held_out = (Dataset.open(str(newest(folder, f"pairs.{part}"))) for part in ("train", "held-out"))
    longer = Longer().label(held_out.read(["chosen", "rejected"]), Context())[Longer().output]
    print(f"{held_out.num_rows:,} held-out pairs, {train.num_rows:,} to learn from; in the right order:")
    manifest = read_manifest(str(newest(folder, "reward-model")))
    assert manifest is not None, "a folder with a manifest was looked for"
    print(f"  reward model    {manifest.facts['stats']['val_accuracy']:.1%} (of those that fit its length)")
    print(f"  longer answer   {np.asarray(longer).mean():.1%}")
    print(f"  bag of words    {bag_of_words(train, held_out):.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
