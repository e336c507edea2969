"""The nodes, one file for each user action. Of ComfyUI they import comfy_api alone; all else is in `host`."""

from comfy_api.latest import ComfyExtension, io

from .advice import LoadAdvice
from .advisor import Advisor, AdvisorKandinsky
from .calibration import Calibrate, CalibrateModel
from .clip import ClipEmbedding
from .compare import ComparePictures, UnsharedPrompt
from .decoder import DecoderLoader
from .guider import Guider, HierarchicalKSampler, SharedNoise
from .host.checks import checked
from .host.routes import add_routes
from .linkage import WardLinkage
from .native_model import KandinskyModel
from .pick import Pick
from .plan_guidance import PlanGuidance
from .plan_shard import PlanShard
from .prior import PriorEmbedding, PriorLoader
from .prompt_table import PromptTable
from .prompts import PromptSet
from .sampler import BranchingSampler
from .save_as_drawn import SaveAsDrawn
from .save_set import SaveSet
from .saving_plan import SavingPlan
from .scenes import SceneLoader
from .schedule import ThresholdSchedule
from .schedule_plot import shape_of_settings
from .sensitivity import SensitivityLoader
from .set import Set
from .share_steps import ShareSteps
from .sheet import ContactSheet
from .table_page import table_of_file, table_of_text
from .trunk import KeepTrunks
from .variants import Variants
from .workers import SetWorkers

NODES: list[type[io.ComfyNode]] = [
    PromptSet,
    PriorLoader,
    PriorEmbedding,
    WardLinkage,
    ThresholdSchedule,
    DecoderLoader,
    BranchingSampler,
    ContactSheet,
    KandinskyModel,
    ClipEmbedding,
    Guider,
    SharedNoise,
    HierarchicalKSampler,
    Calibrate,
    CalibrateModel,
    SensitivityLoader,
    SaveSet,
    ShareSteps,
    SceneLoader,
    PlanGuidance,
    Advisor,
    AdvisorKandinsky,
    LoadAdvice,
    PromptTable,
    UnsharedPrompt,
    ComparePictures,
    SavingPlan,
    Set,
    Pick,
    KeepTrunks,
    SaveAsDrawn,
    Variants,
    PlanShard,
    SetWorkers,
]
for node in NODES:
    checked(node)


class HierDiffExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> HierDiffExtension:
    add_routes(shape_of_settings, table_of_text, table_of_file)
    return HierDiffExtension()
