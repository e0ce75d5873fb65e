"""The passes and recipes that come with dfmpc_onnx: an ordinary pass package, laid out as any other would be."""

from dfmpc_passes.apply_plan import ApplyPlan
from dfmpc_passes.assign_bits import AssignBits
from dfmpc_passes.balance_channels import BalanceChannels
from dfmpc_passes.batch_norm_to_conv import BatchNormToConv
from dfmpc_passes.compensate import Compensate
from dfmpc_passes.equalize_channels import EqualizeChannels
from dfmpc_passes.equalize_for_one_scale import EqualizeForOneScale
from dfmpc_passes.equalize_gates import EqualizeGates
from dfmpc_passes.estimate_ranges import EstimateRanges
from dfmpc_passes.estimate_statistics import EstimateStatistics
from dfmpc_passes.fold_batch_norm import FoldBatchNorm
from dfmpc_passes.fold_batch_norm_forward import FoldBatchNormForward
from dfmpc_passes.fold_for_one_scale import FoldForOneScale
from dfmpc_passes.fold_scales import FoldScales
from dfmpc_passes.halve_floats import HalveFloats
from dfmpc_passes.insert_qdq import InsertQDQ
from dfmpc_passes.integer_gates import IntegerGates
from dfmpc_passes.keep_activations_float import KeepActivationsFloat
from dfmpc_passes.keep_layers_float import KeepLayersFloat
from dfmpc_passes.keep_scores_float import KeepScoresFloat
from dfmpc_passes.keep_slow_layers_float import KeepSlowLayersFloat
from dfmpc_passes.limit_pair_sums import LimitPairSums
from dfmpc_passes.measure_sensitivity import MeasureSensitivity
from dfmpc_passes.meet_latency import MeetLatency
from dfmpc_passes.normalize import Normalize
from dfmpc_passes.pack_weights import PackWeights
from dfmpc_passes.pair_convolutions import PairConvolutions
from dfmpc_passes.plan_bits import PlanBits
from dfmpc_passes.quantize_weights import QuantizeWeights
from dfmpc_passes.raise_opset import RaiseOpset
from dfmpc_passes.recalibrate_batch_norm import RecalibrateBatchNorm
from dfmpc_passes.reconstruct_layers import ReconstructLayers
from dfmpc_passes.spread_channels import SpreadChannels
from dfmpc_passes.take_widest_bits import TakeWidestBits

PASSES = (
    Normalize,
    FoldScales,
    IntegerGates,
    EqualizeGates,
    FoldForOneScale,
    PairConvolutions,
    BalanceChannels,
    EqualizeChannels,
    EqualizeForOneScale,
    EstimateStatistics,
    AssignBits,
    PlanBits,
    ApplyPlan,
    TakeWidestBits,
    MeasureSensitivity,
    QuantizeWeights,
    RecalibrateBatchNorm,
    Compensate,
    ReconstructLayers,
    EstimateRanges,
    SpreadChannels,
    KeepLayersFloat,
    FoldBatchNorm,
    FoldBatchNormForward,
    BatchNormToConv,
    RaiseOpset,
    KeepScoresFloat,
    KeepSlowLayersFloat,
    KeepActivationsFloat,
    MeetLatency,
    LimitPairSums,
    InsertQDQ,
    PackWeights,
    HalveFloats,
)

# Names that recipes and files written by earlier versions state.
FORMER_NAMES = {
    "exempt_activations": "keep_activations_float",
    "spare_layers": "keep_layers_float",
}
