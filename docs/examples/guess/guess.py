"""A game: guess a number from 1 to 3 in two tries. `python guess.py` writes games.jsonl and played.jsonl."""

import json
import random


def play(conversations, answer):
    """What the game says to the last guess: higher, lower, or the end, with a reward of 1 where it was right."""
    turns = []
    for talk, number in zip(conversations, answer, strict=True):
        guess = talk[-1]["content"].strip()
        if guess == number:
            turns.append(1.0)
        elif guess in ("1", "2", "3"):
            turns.append("higher" if guess < number else "lower")
        else:
            turns.append(None)
    return turns


def games(count, seed):
    """Games by number, each with what is to be guessed."""
    chance = random.Random(seed)
    for number in range(count):
        yield {"prompt": f"game {number}", "answer": str(chance.randint(1, 3))}


def played(game, chance):
    """A game of somebody who understands every other hint."""
    turns = [{"role": "user", "content": game["prompt"]}, {"role": "assistant", "content": str(chance.randint(1, 3))}]
    [hint] = play([turns], [game["answer"]])
    if isinstance(hint, str):
        first = int(turns[-1]["content"])
        possible = range(first + 1, 4) if hint == "higher" else range(1, first)
        second = chance.choice([1, 2, 3] if chance.random() < 0.5 else possible)
        turns += [{"role": "user", "content": hint}, {"role": "assistant", "content": str(second)}]
    return {"messages": turns}


if __name__ == "__main__":
    chance = random.Random(7)
    with open("games.jsonl", "w") as file:
        file.writelines(json.dumps(game) + "\n" for game in games(400, 1))
    with open("played.jsonl", "w") as file:
        file.writelines(json.dumps(played(game, chance)) + "\n" for game in games(1500, 2))
