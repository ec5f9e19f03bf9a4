"""`python -m guided_transfer.training STAGE`: one command per stage; `--help` lists the settings of each."""

from __future__ import annotations

from typing import Annotated

import tyro

from guided_transfer.training import latents, package, tokenizer, transformer, vocabulary

Stage = (
    Annotated[vocabulary.VocabularyTraining, tyro.conf.subcommand("vocabulary")]
    | Annotated[tokenizer.TokenizerTraining, tyro.conf.subcommand("tokenizer")]
    | Annotated[latents.LatentEncoding, tyro.conf.subcommand("latents")]
    | Annotated[transformer.TransformerTraining, tyro.conf.subcommand("transformer")]
    | Annotated[package.Packaging, tyro.conf.subcommand("package")]
)


def main() -> None:
    """Run one stage."""
    settings = tyro.cli(Stage, prog="python -m guided_transfer.training")
    if isinstance(settings, vocabulary.VocabularyTraining):
        print(vocabulary.train(settings))
    elif isinstance(settings, tokenizer.TokenizerTraining):
        print(tokenizer.train(settings))
    elif isinstance(settings, latents.LatentEncoding):
        print(latents.run(settings))
    elif isinstance(settings, transformer.TransformerTraining):
        print(transformer.train(settings))
    else:
        print(package.run(settings))


if __name__ == "__main__":
    main()
