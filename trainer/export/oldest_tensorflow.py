"""The oldest TensorFlow whose runtime has the ops of a graph.

A GraphDef's own `min_consumer` is 12 whatever it holds, the version of
TensorFlow 1.0. So the ops are those of a list that `make test-servers` compares
with the registry of that TensorFlow, in which it also asks an export.
"""

from tensorflow.core.protobuf import meta_graph_pb2

OLDEST = "2.15"
_OPS = """
    AddN AddV2 All ArgMax Assert BiasAdd BitwiseAnd BroadcastGradientArgs
    BroadcastTo Cast ConcatOffset ConcatV2 ConcatenateDataset Const Conv2D
    Cumsum DatasetToSingleElement DecodeImage DecodeJpeg DecodePng DecodeRaw
    DenseBincount DepthwiseConv2dNative DivNoNan DynamicStitch EncodePng
    EnsureShape Equal Erfc Exp ExpandDims ExtractJpegShape Fill Floor
    FloorDiv FloorMod GatherV2 Greater GreaterEqual Identity If
    IgnoreErrorsDataset IsFinite Less LessEqual Log LogicalAnd LogicalNot
    LogicalOr MapDataset MatMul Max Maximum Mean MergeV2Checkpoints Minimum
    Mul Neg NoOp NotEqual Pack Pad PartitionedCall Placeholder Prod Range
    RealDiv Relu ReluGrad Reshape ResizeBicubic RestoreV2 ReverseV2 Round
    Rsqrt SaveV2 ScaleAndTranslate Select SelectV2 Shape ShapeN
    ShardedFilename Sigmoid SigmoidGrad Size Slice Softmax SplitV Square
    Squeeze StatefulPartitionedCall StatelessIf StatelessWhile
    StaticRegexFullMatch StridedSlice StringJoin StringLength StringSplitV2
    Sub Substr Sum TakeDataset TensorDataset TensorListFromTensor
    TensorListGetItem TensorListReserve TensorListSetItem TensorListStack
    Tile TopKV2 Transpose Unpack UnsortedSegmentSum UpperBound Where While
    ZerosLike
"""
OPS = frozenset(_OPS.split())


def describe(meta_graph: meta_graph_pb2.MetaGraphDef) -> str:
    """A sentence on what TensorFlow a graph needs."""
    graph = meta_graph.graph_def
    functions = {f.signature.name for f in graph.library.function}
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    ops = {node.op for node in nodes} - functions
    new = sorted(ops - OPS)
    if new:
        return (
            f"It was written by {meta_graph.meta_info_def.tensorflow_version}, "
            f"and nothing older is known to have its op {new[0]}."
        )
    return (
        f"TensorFlow {OLDEST} has all {len(ops)} ops; no older one was tried."
    )
