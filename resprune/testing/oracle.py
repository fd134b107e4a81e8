"""What a backbone's model should answer, built by hand from embeddings and positions.

By code that shares nothing with ``resprune.prepare``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resprune.backbones import Backbone
from resprune.testing.calls import NEW_TOKENS


@dataclass
class Oracle:
    """What the unpruned and the pruned model should answer.

    A family with other positions or embeddings overrides these methods.

    Attributes:
        model: A tiny random model in float32 and eval mode.
        backbone: Its adapter, asked for nothing but names and the id of placeholders.
    """

    model: Any
    backbone: Backbone = field(init=False)

    def positioned(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Give an unpruned call the positions it should have.

        Where it is given none, the model may count padding; relative positions are what matters.

        Args:
            inputs: The processor's output.

        Returns:
            Inputs for the unpruned model.
        """
        places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
        return {**inputs, "position_ids": places}

    def features(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Ask the model for the features of each image, a row a placeholder: (P_i, d) each."""
        names = [name for name in self.backbone.image_inputs if inputs.get(name) is not None]
        taken = {name: inputs[name] for name in names}
        return list(self.model.get_image_features(**taken, return_dict=True).pooler_output)

    def kept_placeholders(self, features: Tensor, keep: Tensor) -> set[int]:
        """Say which placeholders of an image stay when these of its visual tokens are kept."""
        return set(keep.tolist())

    def language_model(self) -> Any:
        """The language model without its head."""
        base = self.model.base_model
        return base.language_model if hasattr(base, "language_model") else base.text_model

    def oracle_embeddings(
        self, inputs: Mapping[str, Any], kept: Sequence[Tensor], positions: str
    ) -> tuple[Tensor, Tensor]:
        """Build the shortened prompt of one unpadded row by hand.

        Args:
            inputs: The processor's output for one row.
            kept: Kept indices of each of its images.
            positions: ``keep`` or ``compact``.

        Returns:
            Embeddings (1, n, d) and position ids (1, n).
        """
        features = self.features(inputs)
        embed = self.model.get_input_embeddings()
        chosen = [
            self.kept_placeholders(rows, keep) for rows, keep in zip(features, kept, strict=True)
        ]
        vectors, places = [], []
        image, index = 0, 0
        for place, token in enumerate(inputs["input_ids"][0].tolist()):
            if token != self.backbone.image_token_id:
                vectors.append(embed(torch.tensor(token)))
                places.append(place)
                continue
            if index in chosen[image]:
                vectors.append(features[image][index])
                places.append(place)
            index += 1
            if index == len(features[image]):
                image, index = image + 1, 0
        if positions == "compact":
            places = list(range(len(places)))
        return torch.stack(vectors)[None], torch.tensor([places])

    def oracle_logits(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Run the language model alone, without a cache: (1, n, d) -> (1, n, vocabulary)."""
        hidden = self.language_model()(
            inputs_embeds=embeddings,
            position_ids=places,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

    def next_place(self, places: Tensor) -> Tensor:
        """Position of the token after these."""
        return places[..., -1:] + 1

    def oracle_beams(self, embeddings: Tensor, places: Tensor, beams: int) -> list[list[int]]:
        """Beam search without a cache, every beam whole at every step.

        Args:
            embeddings: Shape (1, n, d).
            places: Position ids.
            beams: Beams kept, all of them returned.

        Returns:
            ``NEW_TOKENS`` tokens a beam, best first.
        """
        embed = self.model.get_input_embeddings()
        found: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(NEW_TOKENS):
            longer = []
            for score, tokens in found:
                vectors, where = embeddings, places
                for token in tokens:
                    vectors = torch.cat([vectors, embed(torch.tensor([[token]]))], dim=1)
                    where = torch.cat([where, self.next_place(where)], dim=-1)
                chances = self.oracle_logits(vectors, where)[0, -1].float().log_softmax(dim=-1)
                best = chances.topk(beams)
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    longer.append((score + value, [*tokens, token]))
            found = sorted(longer, key=lambda entry: -entry[0])[:beams]
        return [tokens for _, tokens in found]
