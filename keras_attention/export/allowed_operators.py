"""The operators an artefact may use; anything else is refused before it is loaded.

Numbers and texts in, numbers and texts out: nothing here reads or writes a file, opens
a connection, runs Python or keeps what it was fed. A name is added when an exporter
needs it, after reading what it does.
"""

TENSORFLOW = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin AsString
    Asin Asinh Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp Atan
    Atan2 Atanh AvgPool BandedTriangularSolve BatchMatMul BatchMatMulV2
    BatchMatMulV3 BatchToSpaceND BiasAdd Bitcast BitwiseAnd BitwiseOr BitwiseXor
    BroadcastArgs BroadcastTo Bucketize Cast Ceil CheckNumerics ClipByValue Concat
    ConcatV2 Const Conv2D Conv3D Cos Cosh Cumprod Cumsum CumulativeLogsumexp
    DecodeRaw DenseBincount DepthwiseConv2dNative Dequantize Diag DiagPart
    DisableCopyOnRead DivNoNan
    DynamicPartition DynamicStitch Einsum Elu Empty EmptyTensorList EnsureShape
    Equal Erf Erfc Erfinv Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod
    FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual HashTableV2
    Identity IdentityN If InTopKV2 InvertPermutation IsFinite IsInf IsNan L2Loss
    LeakyRelu LeftShift Less LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd
    LogicalNot LogicalOr LookupTableExport LookupTableFindV2 LookupTableImportV2
    LookupTableSizeV2 LowerBound MatMul MatrixBandPart MatrixDiag MatrixDiagPartV3
    MatrixDiagV3 MatrixSetDiagV3 Max MaxPool Maximum Mean Min Minimum MirrorPad Mod
    Mul MulNoNan MutableDenseHashTableV2 MutableHashTableV2 Neg NextIteration NoOp
    NonMaxSuppressionV3 NotEqual OneHot OnesLike Pack Pad PadV2 ParallelConcat
    ParallelDynamicStitch PartitionedCall Placeholder PlaceholderWithDefault Pow
    PreventGradient Prod RaggedGather RaggedRange RaggedTensorFromVariant
    RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant
    RandomStandardNormal RandomUniform RandomUniformInt Range Rank ReadVariableOp
    Real RealDiv Reciprocal ReduceJoin RegexFullMatch RegexReplace Relu Relu6 Reshape
    ResourceGather ResourceGatherNd ResourceScatterUpdate Reverse ReverseSequence
    ReverseV2 RightShift Rint Roll Round Rsqrt ScatterNd SegmentMax SegmentMean
    SegmentMin SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh
    Size Slice Snapshot Softmax Softplus Softsign SpaceToBatchND SparseReshape
    SparseToDense Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessIf StatelessMultinomial StatelessRandomGetAlg
    StatelessRandomGetKeyCounter StatelessRandomNormalV2
    StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2
    StatelessRandomUniformV2 StatelessWhile StaticRegexFullMatch StaticRegexReplace
    StopGradient StridedSlice StringFormat StringJoin StringLength StringLower
    StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucketFast
    StringToNumber StringUpper Sub Substr Sum Tan Tanh TensorListConcatV2
    TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem
    TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
    TensorListResize TensorListSetItem TensorListSplit TensorListStack
    TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub
    TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv TruncateMod UnicodeDecode
    UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode Unique
    UniqueV2 UniqueWithCounts Unpack UnsortedSegmentJoin UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentSum UpperBound VarHandleOp VarIsInitializedOp
    Where While XlaDynamicUpdateSlice Xdivy Xlog1py Xlogy ZerosLike
    """.split()  # noqa: SIM905
)
# Of tensorflow-text: tokenizers and normalisers, on texts and tables in memory.
TENSORFLOW_TEXT = frozenset(
    """
    CaseFoldUTF8 ConstrainedSequence FastBertNormalize FastWordpieceDetokenize
    FastWordpieceTokenizeWithOffsets NormalizeUTF8 NormalizeUTF8WithOffsetsMap
    RegexSplitWithOffsets SentencepieceDetokenizeOp SentencepieceOp
    SentencepieceTokenizeOp SentencepieceTokenizeWithOffsetsOp
    SentencepieceVocabSizeOp UnicodeScriptTokenizeWithOffsets
    WhitespaceTokenizeWithOffsets WhitespaceTokenizeWithOffsetsV2
    WordpieceTokenizeWithOffsets
    """.split()  # noqa: SIM905
)
# The checkpoint's own, and only in the functions that the saver calls.
SAVING = frozenset({"MergeV2Checkpoints", "SaveV2", "ShardedFilename"})
RESTORING = frozenset({"RestoreV2"})

# Of ONNX every operator of the standard, which reads and writes no file, and of
# onnxruntime's own domain these.
MICROSOFT = frozenset(
    """
    Attention BiasGelu DequantizeLinear DynamicQuantizeMatMul
    EmbedLayerNormalization FastGelu FusedMatMul Gelu GroupQueryAttention
    LayerNormalization MatMulBnb4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits
    MultiHeadAttention QAttention QGemm QLinearAdd QLinearMul QuantizeLinear
    QuickGelu RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization
    SkipSimplifiedLayerNormalization
    """.split()  # noqa: SIM905
)
