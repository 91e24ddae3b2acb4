"""Settings of `dsllm filter --train-quality`."""

from dataclasses import dataclass

from dsllm.config import DocumentSettings, setting


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(DocumentSettings):
    """How a quality model is trained."""

    train_quality: bool = setting(
        False, "Train a quality model: the inputs are good documents, then bad ones, -o is the model's file."
    )
    train_words: bool = setting(
        False, "Count the words of good documents, the inputs, into a model for --word-model: -o."
    )
    train_epochs: int = setting(25, "Passes over the documents to train on.", min=1)
    train_lr: float = setting(0.5, "Learning rate at first; it falls to 0.", above=0)
    train_dim: int = setting(16, "Width of the rows of words.", min=1)
    train_word_ngrams: int = setting(2, "Longest runs of words that have a row.", unit="words", min=1)
    train_char_ngrams: int = setting(
        3, "Longest runs of characters in a word that have a row; 0 for none.", unit="characters", min=0
    )
    train_buckets: int = setting(200_000, "Rows for all runs together.", min=1)
    train_min_count: int = setting(1, "Times that a word must occur to have a row of its own.", min=1)
    train_held_out_frac: float = setting(
        0.2, "Share of the documents that the model is tried on, and not trained on.", above=0, max=0.9
    )
    seed: int = setting(0, "Seed of the training, and of what is held out.", min=0)
