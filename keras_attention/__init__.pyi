# The public names of the package, written once: type checkers read this file, and
# keras_attention/__init__.py reads it to find the module of a name that is used.

from keras_attention.blocks.decoder_block import DecoderBlock as DecoderBlock
from keras_attention.blocks.encoder_block import EncoderBlock as EncoderBlock
from keras_attention.explain.plot import plot_attention as plot_attention
from keras_attention.explain.record import attention_maps as attention_maps
from keras_attention.export.api import export_model as export_model
from keras_attention.export.artifact.description import TensorInfo as TensorInfo
from keras_attention.export.deployment.versions import publish as publish
from keras_attention.export.deployment.versions import restore as restore
from keras_attention.export.deployment.versions import rollback as rollback
from keras_attention.export.formats.errors import ExportError as ExportError
from keras_attention.export.quantization.quantize import (
    quantize_artifact as quantize_artifact,
)
from keras_attention.export.runtimes.opening import open_artifact as open_artifact
from keras_attention.export.scanning.scan import scan_artifact as scan_artifact
from keras_attention.export.signatures.generation import (
    generation_signature as generation_signature,
)
from keras_attention.export.signatures.signature import Signature as Signature
from keras_attention.export.verification.comparison import (
    compare_artifacts as compare_artifacts,
)
from keras_attention.export.verification.comparison import (
    feeds_of_texts as feeds_of_texts,
)
from keras_attention.export.verification.verify import (
    VerificationError as VerificationError,
)
from keras_attention.export.verification.verify import (
    verify_artifact as verify_artifact,
)
from keras_attention.generation import processors as processors
from keras_attention.generation.settings import GenerationSettings as GenerationSettings
from keras_attention.layers.additive_attention import (
    AdditiveAttention as AdditiveAttention,
)
from keras_attention.layers.alibi_bias import AlibiBias as AlibiBias
from keras_attention.layers.attention_cell import AttentionCell as AttentionCell
from keras_attention.layers.attention_pooling import (
    AttentionPooling as AttentionPooling,
)
from keras_attention.layers.attention_rnn import AttentionRNN as AttentionRNN
from keras_attention.layers.base import AttentionInputs as AttentionInputs
from keras_attention.layers.base import AttentionLayer as AttentionLayer
from keras_attention.layers.big_bird_attention import (
    BigBirdAttention as BigBirdAttention,
)
from keras_attention.layers.dot_product_attention import (
    DotProductAttention as DotProductAttention,
)
from keras_attention.layers.feed_forward import FeedForward as FeedForward
from keras_attention.layers.from_keras import from_keras as from_keras
from keras_attention.layers.global_attention import GlobalAttention as GlobalAttention
from keras_attention.layers.local_attention import LocalAttention as LocalAttention
from keras_attention.layers.longformer_attention import (
    LongformerAttention as LongformerAttention,
)
from keras_attention.layers.monotonic_attention import (
    MonotonicAttention as MonotonicAttention,
)
from keras_attention.layers.multi_head_attention import (
    MultiHeadAttention as MultiHeadAttention,
)
from keras_attention.layers.patch_embedding import PatchEmbedding as PatchEmbedding
from keras_attention.layers.position_embedding import (
    PositionEmbedding as PositionEmbedding,
)
from keras_attention.layers.position_scheme import PositionScheme as PositionScheme
from keras_attention.layers.relative_position_bias import (
    RelativePositionBias as RelativePositionBias,
)
from keras_attention.layers.relative_position_representation import (
    RelativePositionRepresentation as RelativePositionRepresentation,
)
from keras_attention.layers.rms_normalization import (
    RMSNormalization as RMSNormalization,
)
from keras_attention.layers.rotary_embedding import RotaryEmbedding as RotaryEmbedding
from keras_attention.layers.sinusoidal_encoding import (
    SinusoidalEncoding as SinusoidalEncoding,
)
from keras_attention.layers.sinusoidal_encoding_2d import (
    SinusoidalEncoding2D as SinusoidalEncoding2D,
)
from keras_attention.models.bert import BertEncoder as BertEncoder
from keras_attention.models.gpt import GPTDecoder as GPTDecoder
from keras_attention.models.loading import load_model as load_model
from keras_attention.models.recurrent_seq2seq import (
    RecurrentSeq2Seq as RecurrentSeq2Seq,
)
from keras_attention.models.seq2seq import Seq2SeqTransformer as Seq2SeqTransformer
from keras_attention.models.seq2seq_features import Seq2SeqFeatures as Seq2SeqFeatures
from keras_attention.models.t5 import T5EncoderDecoder as T5EncoderDecoder
from keras_attention.models.t5_encoder import T5Encoder as T5Encoder
from keras_attention.models.vit import VisionTransformer as VisionTransformer
from keras_attention.ops import masks as masks
from keras_attention.ops.caches.fixed import FixedKVCache as FixedKVCache
from keras_attention.ops.caches.growing import KVCache as KVCache
from keras_attention.ops.caches.rolling import RollingKVCache as RollingKVCache
from keras_attention.ops.caches.static import EncoderDecoderCache as EncoderDecoderCache
from keras_attention.ops.caches.static import StaticKVCache as StaticKVCache
from keras_attention.ops.coverage import coverage_loss as coverage_loss
from keras_attention.tasks.causal_lm import CausalLM as CausalLM
from keras_attention.tasks.image_classifier import ImageClassifier as ImageClassifier
from keras_attention.tasks.losses import CosineScore as CosineScore
from keras_attention.tasks.losses import (
    MultipleNegativesRanking as MultipleNegativesRanking,
)
from keras_attention.tasks.losses import SmoothedCrossEntropy as SmoothedCrossEntropy
from keras_attention.tasks.masked_lm import MaskedLM as MaskedLM
from keras_attention.tasks.metrics import InBatchRecall as InBatchRecall
from keras_attention.tasks.metrics import LabelledAccuracy as LabelledAccuracy
from keras_attention.tasks.metrics import Perplexity as Perplexity
from keras_attention.tasks.next_sentence import NextSentence as NextSentence
from keras_attention.tasks.question_answerer import QuestionAnswerer as QuestionAnswerer
from keras_attention.tasks.sentence_encoder import SentenceEncoder as SentenceEncoder
from keras_attention.tasks.sentence_losses import MatryoshkaLoss as MatryoshkaLoss
from keras_attention.tasks.sentence_losses import TripletLoss as TripletLoss
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM as Seq2SeqLM
from keras_attention.tasks.text_classifier import TextClassifier as TextClassifier
from keras_attention.tasks.text_scorer import TextScorer as TextScorer
from keras_attention.tasks.token_classifier import TokenClassifier as TokenClassifier
from keras_attention.testing.assertions import assert_causal as assert_causal
from keras_attention.testing.assertions import (
    assert_padding_invariant as assert_padding_invariant,
)
from keras_attention.text.byte_pair.tokenizer import (
    BytePairTokenizer as BytePairTokenizer,
)
from keras_attention.text.loading import load_tokenizer as load_tokenizer
from keras_attention.text.pipeline.tokenizer import (
    PipelineTokenizer as PipelineTokenizer,
)
from keras_attention.text.sentence_piece.tokenizer import (
    SentencePieceTokenizer as SentencePieceTokenizer,
)
from keras_attention.text.training import train_byte_pair as train_byte_pair
from keras_attention.text.training import train_sentence_piece as train_sentence_piece
from keras_attention.text.training import train_word_piece as train_word_piece
from keras_attention.text.wordpiece.tokenizer import (
    WordPieceTokenizer as WordPieceTokenizer,
)
from keras_attention.training.adamw import AdamW as AdamW
from keras_attention.training.checkpoint import (
    TrainingCheckpoint as TrainingCheckpoint,
)
from keras_attention.training.entity_scores import entity_scores as entity_scores
from keras_attention.training.evaluation import TaskEvaluation as TaskEvaluation
from keras_attention.training.evaluation import evaluate_task as evaluate_task
from keras_attention.training.fine_tuning import fine_tune as fine_tune
from keras_attention.training.fine_tuning import (
    fine_tuning_optimizer as fine_tuning_optimizer,
)
from keras_attention.training.from_files.files import file_batches as file_batches
from keras_attention.training.launcher import launch as launch
from keras_attention.training.layouts import layout_map as layout_map
from keras_attention.training.lora import enable_lora as enable_lora
from keras_attention.training.lora import merge_lora as merge_lora
from keras_attention.training.schedules import WarmupLinearDecay as WarmupLinearDecay
from keras_attention.weights.peft_hf import load_adapter as load_adapter
from keras_attention.weights.peft_hf import save_adapter as save_adapter
from keras_attention.weights.pretrained import from_pretrained as from_pretrained
from keras_attention.weights.pretrained import save_pretrained as save_pretrained

__version__: str
