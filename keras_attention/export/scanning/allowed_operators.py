"""The operators an artifact may use; anything else is refused before it is loaded.

They compute numbers and texts from numbers and texts. None of them reads or writes a
file, opens a connection, runs Python or stores its inputs. A name is added when an
exporter needs it, after its documentation has been read.
"""

TENSORFLOW = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 AdjustContrastv2 AdjustHue AdjustSaturation All
    Angle Any ApproxTopK ApproximateEqual ArgMax ArgMin AsString Asin Asinh Assert
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp Atan Atan2 Atanh
    AudioSpectrogram AvgPool AvgPool3D BandedTriangularSolve BatchMatMul BatchMatMulV2
    BatchMatMulV3 BatchToSpace BatchToSpaceND BesselI0 BesselI0e BesselI1 BesselI1e
    BesselJ0 BesselJ1 BesselK0 BesselK1 BesselY0 BesselY1 Betainc BiasAdd Bincount
    Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastTo Bucketize
    CTCBeamSearchDecoder CTCGreedyDecoder Cast Ceil CheckNumerics Cholesky ClipByValue
    CombinedNonMaxSuppression Complex ComplexAbs Concat ConcatV2 Conj Const Conv
    Conv2D Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D Conv3DBackpropInputV2 Cos
    Cosh CropAndResize Cross Cumprod Cumsum CumulativeLogsumexp Dawsn
    DecodeAndCropJpeg DecodeBase64 DecodeBmp DecodeGif DecodeImage DecodeJpeg
    DecodePng DecodeRaw DecodeWav DenseBincount DenseCountSparseOutput DepthToSpace
    DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput Dequantize Diag DiagPart
    Digamma Dilation2D DisableCopyOnRead DivNoNan DynamicPartition DynamicStitch Eig
    Einsum Elu Empty EmptyTensorList EncodeBase64 EncodeJpeg EncodePng EnsureShape
    Equal Erf Erfc Erfinv EuclideanNorm Exp ExpandDims Expint Expm1
    ExtractImagePatches ExtractVolumePatches FFT FFT2D FFT3D FFTND
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    Fill Floor FloorDiv FloorMod FractionalMaxPool FresnelCos FresnelSin
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater
    GreaterEqual HSVToRGB HashTableV2 HistogramFixedWidth IFFT IFFT2D IFFT3D IFFTND
    IRFFT IRFFT2D IRFFT3D IRFFTND Identity IdentityN If Igamma Igammac Imag
    ImageProjectiveTransformV2 ImageProjectiveTransformV3 InTopK InTopKV2 Invert
    InvertPermutation IsFinite IsInf IsNan L2Loss LRN LeakyRelu LeftShift Less
    LessEqual Lgamma LinSpace ListDiff Log Log1p LogMatrixDeterminant LogSoftmax
    LogicalAnd LogicalNot LogicalOr LookupTableExport LookupTableFindV2
    LookupTableImportV2 LookupTableSizeV2 LowerBound Lu MatMul MatrixBandPart
    MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3
    MatrixDiagV2 MatrixDiagV3 MatrixExponential MatrixInverse MatrixLogarithm
    MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixSolveLs
    MatrixSquareRoot MatrixTriangularSolve Max MaxPool MaxPool3D MaxPoolV2
    MaxPoolWithArgmax Maximum Mean Mfcc Min Minimum MirrorPad Mod Mul MulNoNan
    MutableDenseHashTableV2 MutableHashTableV2 Ndtri Neg NextAfter NextIteration NoOp
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual NthElement
    OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch
    PartitionedCall Placeholder PlaceholderWithDefault Polygamma PopulationCount Pow
    PreventGradient Prod Qr QuantizeAndDequantizeV2 QuantizeAndDequantizeV3
    QuantizeAndDequantizeV4 QuantizeV2 RFFT RFFT2D RFFT3D RFFTND RGBToHSV
    RaggedBincount RaggedCountSparseOutput RaggedCross RaggedGather RaggedRange
    RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor
    RaggedTensorToVariant RandomStandardNormal RandomUniform RandomUniformInt Range
    Rank ReadVariableOp Real RealDiv Reciprocal ReduceJoin RegexFullMatch RegexReplace
    Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor
    ResourceGather ResourceGatherNd ResourceScatterUpdate Reverse ReverseSequence
    ReverseV2 RightShift Rint Roll Round Rsqrt ScaleAndTranslate ScatterNd SegmentMax
    SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2
    SegmentSum SegmentSumV2 Select SelectV2 SelfAdjointEigV2 Selu Shape ShapeN Sigmoid
    Sign Sin Sinh Size Slice Snapshot Softmax SoftmaxCrossEntropyWithLogits Softplus
    Softsign SpaceToBatch SpaceToBatchND SpaceToDepth SparseAdd SparseBincount
    SparseConcat SparseCountSparseOutput SparseCross SparseCrossHashed
    SparseDenseCwiseAdd SparseDenseCwiseMul SparseFillEmptyRows SparseReorder
    SparseReshape SparseSegmentMean SparseSegmentSqrtN SparseSegmentSum SparseSlice
    SparseSoftmax SparseSoftmaxCrossEntropyWithLogits SparseTensorDenseMatMul
    SparseToDense Spence Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessIf StatelessMultinomial
    StatelessParameterizedTruncatedNormal StatelessRandomBinomial
    StatelessRandomGammaV3 StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormalV2 StatelessRandomPoisson
    StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2
    StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormalV2
    StatelessWhile StaticRegexFullMatch StaticRegexReplace StopGradient StridedSlice
    StringFormat StringJoin StringLength StringLower StringNGrams StringSplit
    StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast
    StringToHashBucketStrong StringToNumber StringUpper Sub Substr Sum Svd Tan Tanh
    TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
    TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListReserve TensorListResize TensorListSetItem TensorListSplit
    TensorListStack TensorScatterAdd TensorScatterMax TensorScatterMin
    TensorScatterSub TensorScatterUpdate Tile TopK TopKV2 Transpose TridiagonalMatMul
    TridiagonalSolve TruncateDiv TruncateMod UnicodeDecode UnicodeDecodeWithOffsets
    UnicodeEncode UnicodeScript UnicodeTranscode UniformDequantize UniformQuantize
    Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnsortedSegmentJoin
    UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
    UpperBound VarHandleOp VarIsInitializedOp Where While Xdivy XlaDynamicUpdateSlice
    Xlog1py Xlogy ZerosLike Zeta
    """.split()  # noqa: SIM905
)
# Operators of tensorflow-text: tokenizers and normalisers, which work in memory.
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
# Operators of the checkpoint, allowed only in the functions that the saver calls.
SAVING = frozenset({"MergeV2Checkpoints", "SaveV2", "ShardedFilename"})
RESTORING = frozenset({"RestoreV2"})
# How the operators begin that change a variable, a table or another state. Those that
# are allowed at all are allowed only when the SavedModel is loaded, in no signature.
CHANGING_STATE = (
    *("Assign", "ResourceScatter", "ResourceStridedSliceAssign", "ResourceApply"),
    *("ResourceSparseApply", "LookupTableImport", "LookupTableInsert"),
    *("LookupTableRemove", "InitializeTable", "TensorArray", "Stack", "Queue"),
    *("Barrier", "MapStage", "Stage", "Initialize"),
)


def _numbered(pairs: str) -> dict[int, str]:
    """Converts `"ADD=0 …"` to a dict from number to name."""
    split = (pair.split("=") for pair in pairs.split())
    return {int(number): name for name, number in split}


# LiteRT's built-in operators, by their number in the schema of .tflite files.
# TensorFlow's operators (Flex) are custom operators there.
LITERT = _numbered(
    """
    ADD=0 AVERAGE_POOL_2D=1 CONCATENATION=2 CONV_2D=3 DEPTHWISE_CONV_2D=4
    DEPTH_TO_SPACE=5 DEQUANTIZE=6 EMBEDDING_LOOKUP=7 FLOOR=8 FULLY_CONNECTED=9
    L2_NORMALIZATION=11 LOGISTIC=14 MAX_POOL_2D=17 MUL=18 RELU=19 RELU_N1_TO_1=20
    RELU6=21 RESHAPE=22 RESIZE_BILINEAR=23 SOFTMAX=25 SPACE_TO_DEPTH=26 TANH=28 PAD=34
    GATHER=36 BATCH_TO_SPACE_ND=37 SPACE_TO_BATCH_ND=38 TRANSPOSE=39 MEAN=40 SUB=41
    DIV=42 SQUEEZE=43 STRIDED_SLICE=45 EXP=47 TOPK_V2=48 SPLIT=49 LOG_SOFTMAX=50
    CAST=53 PRELU=54 MAXIMUM=55 ARG_MAX=56 MINIMUM=57 LESS=58 NEG=59 PADV2=60
    GREATER=61 GREATER_EQUAL=62 LESS_EQUAL=63 SELECT=64 SLICE=65 SIN=66
    TRANSPOSE_CONV=67 SPARSE_TO_DENSE=68 TILE=69 EXPAND_DIMS=70 EQUAL=71 NOT_EQUAL=72
    LOG=73 SUM=74 SQRT=75 RSQRT=76 SHAPE=77 POW=78 ARG_MIN=79 FAKE_QUANT=80
    REDUCE_PROD=81 REDUCE_MAX=82 PACK=83 LOGICAL_OR=84 ONE_HOT=85 LOGICAL_AND=86
    LOGICAL_NOT=87 UNPACK=88 REDUCE_MIN=89 FLOOR_DIV=90 REDUCE_ANY=91 SQUARE=92
    ZEROS_LIKE=93 FILL=94 FLOOR_MOD=95 RANGE=96 RESIZE_NEAREST_NEIGHBOR=97
    LEAKY_RELU=98 SQUARED_DIFFERENCE=99 MIRROR_PAD=100 ABS=101 SPLIT_V=102 UNIQUE=103
    CEIL=104 REVERSE_V2=105 ADD_N=106 GATHER_ND=107 COS=108 WHERE=109 RANK=110 ELU=111
    REVERSE_SEQUENCE=112 MATRIX_DIAG=113 QUANTIZE=114 MATRIX_SET_DIAG=115 ROUND=116
    HARD_SWISH=117 IF=118 WHILE=119 SCATTER_ND=122 SELECT_V2=123 DENSIFY=124
    SEGMENT_SUM=125 BATCH_MATMUL=126 CUMSUM=128 BROADCAST_TO=130 CONV_3D=132
    REDUCE_ALL=140 CONV_3D_TRANSPOSE=141 BROADCAST_ARGS=145 BUCKETIZE=147 GELU=150
    DYNAMIC_UPDATE_SLICE=151 RELU_0_TO_1=152 UNSORTED_SEGMENT_PROD=153
    UNSORTED_SEGMENT_MAX=154 UNSORTED_SEGMENT_SUM=155 ATAN2=156
    UNSORTED_SEGMENT_MIN=157 SIGN=158 BITCAST=159 BITWISE_XOR=160 RIGHT_SHIFT=161
    """
)
# Built-in operators that are refused: they keep a state between calls, draw random
# numbers, call a delegate or leave the graph. The error uses their names.
LITERT_REFUSED = _numbered(
    """
    HASHTABLE_LOOKUP=10 LSH_PROJECTION=15 LSTM=16 RNN=24 SVDF=27 CALL=31
    UNIDIRECTIONAL_SEQUENCE_RNN=35 UNIDIRECTIONAL_SEQUENCE_LSTM=44
    BIDIRECTIONAL_SEQUENCE_RNN=46 DELEGATE=51 BIDIRECTIONAL_SEQUENCE_LSTM=52
    CALL_ONCE=129 HASHTABLE=136 HASHTABLE_FIND=137 HASHTABLE_IMPORT=138
    HASHTABLE_SIZE=139 VAR_HANDLE=142 READ_VARIABLE=143 ASSIGN_VARIABLE=144
    RANDOM_STANDARD_NORMAL=146 RANDOM_UNIFORM=148 MULTINOMIAL=149
    """
)

# Of ONNX, every operator of the standard is allowed: none reads or writes a file. Of
# onnxruntime's own domain, these are allowed.
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
