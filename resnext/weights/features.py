"""Networks that are like these, but have something that this toolkit lacks: told by their names.

A list of hundreds of missing and unexpected tensors says nothing to a user. A row here says which
feature of the architecture is in the way.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from resnext.errors import BadWeights


@dataclass(frozen=True)
class Feature:
    """One feature, and the names that show it.

    Attributes:
        name: the feature, after "it has".
        shown_by: pattern of a line; each line is the name of a tensor.
        without: pattern of a line that must not be there, or "".
        alone: whether it explains the others, which are not listed then.
        remedy: what to do; "" means that only another library can run the network.
    """

    name: str
    shown_by: str
    without: str = ""
    alone: bool = False
    remedy: str = ""


#: Networks like these have it.
_BLOCK = r"^layer1\.0\.conv2\.weight$"

FEATURES: tuple[Feature, ...] = (
    # ---- the same network, but not as plain tensors
    Feature(
        "quantized weights",
        r"^.*(_packed_params|\.zero_point|weight_fake_quant|activation_post_process)",
        alone=True,
        remedy="save the state_dict() of the float network; quantize with `precision` int8",
    ),
    Feature(
        "LoRA adapters",
        r"^.*\blora_(A|B|down|up|embedding)",
        alone=True,
        remedy="merge them into the weights first (merge_and_unload in peft)",
    ),
    Feature(
        "parametrized weights (weight or spectral norm)",
        r"^.*(\.parametrizations\.|\.weight_[gvu]$)",
        alone=True,
        remedy="remove the parametrizations first (torch.nn.utils.parametrize)",
    ),
    Feature(
        "pruning masks",
        r"^.*\.weight_(orig|mask)$",
        alone=True,
        remedy="make the pruning permanent first (torch.nn.utils.prune.remove)",
    ),
    # ---- other networks, and other names
    Feature(
        "the head of a detector or segmenter",
        r"^(.*\.)?(rpn|roi_heads?|fpn|neck|bbox_head|mask_head|decode_head|aux_classifier"
        r"|class_embed|bbox_embed|panoptic_head|lateral_convs|fpn_convs)\.",
        alone=True,
    ),
    Feature("the names of Hugging Face transformers", r"^(.*\.)?embedder\.embedder\.", alone=True),
    Feature("the names of TensorFlow", r"^.*/", alone=True),
    Feature(
        "the names of Caffe or Detectron2",
        r"^(.*\.)?(res[2-5][a-z]?\d*[_.]|stem\.conv1\.norm\.|bn[2-5][a-z]_)",
        alone=True,
    ),
    Feature(
        "the names of another implementation of ResNet",
        r"^layer1\.\d+\.(shortcut|skip)\.",
        alone=True,
    ),
    Feature(
        "pre-activation blocks", r"^stages\.\d+\.blocks\.\d+\.norm[123]\.|^.*\.preact\.", alone=True
    ),
    Feature(
        "another architecture",
        r"^(stages?\d?|s[1-4]|blocks?\d?|features|trunk|layers|patch_embed|level\d|\w*encoder|body)\.",
        alone=True,
    ),
    Feature("another architecture", r"^stem\.", r"^layer1\.", alone=True),
    # ---- blocks
    Feature("efficient channel attention (ECA)", r"^.*\.(se\.conv|eca\w*)\."),
    Feature(
        "squeeze and excitation (SE)",
        r"^.*\.(se|se_module|se_block|se_layer|se\d|squeeze_excite)\.(?!conv\b)",
    ),
    Feature("spatial attention (CBAM)", r"^.*\.(ca|sa|cbam|channel_attention|spatial_attention)\."),
    Feature("selective kernels (SK)", r"^.*\.conv[12]\.(paths|attn)\."),
    Feature("split attention (ResNeSt)", r"^layer\d\.\d+\.conv2\.fc1\."),
    Feature("multi-scale blocks (Res2Net)", r"^layer\d\.\d+\.convs\.\d+\."),
    Feature("attention layers", r"^.*\b(qkv|to_qkv|self_attn|attnpool|pos_embed|mhsa|non_local)\b"),
    Feature("anti-aliasing filters", r"^.*(\.filt$|\.blur(pool)?\.|\.aa\.)"),
    Feature("basic blocks, of two 3x3 convolutions (ResNet-18)", _BLOCK, r"^layer1\.0\.conv3\."),
    Feature("shortcuts with average pooling (ResNet-D)", r"^layer\d\.0\.downsample\.2\."),
    Feature("biases in its convolutions", r"^(layer\d\.\d+\.)?(conv\d|downsample\.0)\.bias$"),
    # ---- the stem
    Feature("a deep stem, of several convolutions", r"^(conv1|stem)\.\d+\.|^conv[23]\.weight$"),
    Feature("a convolution in place of the max pool", r"^maxpool\.\d+\.weight$"),
    # ---- normalization
    Feature(
        "normalization without running statistics (group norm)",
        r"^layer1\.0\.bn1\.weight$",
        r"^layer1\.0\.bn1\.running_mean$",
    ),
    Feature("no batch norms (folded ones, or none)", _BLOCK, r"^.*(bn|norm)"),
    # ---- the classifier
    Feature(
        "a classifier with another name",
        r"^(head\.fc|head|classifier|last_linear|linear|logits|fc\.fc|cls_head\.fc)\.weight$",
        r"^fc\.weight$",
        remedy="rename it to fc.weight and fc.bias if it is one linear layer",
    ),
    Feature(
        "a classifier of several layers",
        r"^fc\.[\w.]*\d\.weight$",
        r"^fc\.weight$",
        remedy="rename it to fc.weight and fc.bias if it is one linear layer after dropout",
    ),
    Feature("no classifier", _BLOCK, r"^(fc|head|classifier|last_linear|linear|logits|cls_head)\."),
    Feature(
        "a classifier without a bias",
        r"^fc\.weight$",
        r"^fc\.bias$",
        remedy="add fc.bias, zeros",
    ),
)


def refuse_features(names: Collection[str], path: Path) -> None:
    """Refuse a network by the first feature that its names show.

    Args:
        names: of its tensors, without a common prefix.
        path: of the checkpoint, for the message.

    Raises:
        BadWeights: names the feature, and the first tensors that show it.
    """
    lines = "\n".join(name for name in names if "\n" not in name)

    def found(pattern: str) -> str:
        match = re.search(f"(?:{pattern}).*", lines, re.MULTILINE) if pattern else None
        return match[0] if match else ""

    seen = [
        (feature, name)
        for feature in FEATURES
        if (name := found(feature.shown_by)) and not found(feature.without)
    ]
    if not seen:
        return
    shown = seen[:1] if seen[0][0].alone else seen[:3]
    has = "; ".join(f"{feature.name}: {name[:80]}" for feature, name in shown)
    raise BadWeights(
        f"{path} is of a network that this toolkit cannot run: it has {has}",
        hint=shown[0][0].remedy or "export it with the library that it comes from",
    )
