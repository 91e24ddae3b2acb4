"""Settings of `dsllm report`."""

from dataclasses import dataclass

from dsllm.config import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """What the page says about itself."""

    title: str = setting("How this model was made", "The page's heading.")
