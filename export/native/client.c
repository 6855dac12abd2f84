/*
 * Runs a SavedModel with the C API of TensorFlow: no Python, no server.
 *
 *   client [--library PATH]... SAVED_MODEL_DIR SIGNATURE OUTPUT_NAME TEXT...
 *   client [--library PATH]... SAVED_MODEL_DIR SIGNATURE OUTPUT_NAME
 *          --input NAME VALUE... [--input NAME VALUE...]...
 *
 * The texts are one batch. Each row of the output is printed as one line of JSON.
 * The first form is for a signature with one input; the second names each input.
 * An input has one value per row: texts, or numbers as generation takes them.
 *
 * The MetaGraphDef that the loader returns says which tensors of the graph belong to the
 * signature. Only three nested maps of it are read, so this file parses the protobuf
 * wire format itself (see `next_field`) and does not need libprotobuf. No tensor name
 * has to be guessed or passed by hand.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

/* ---- protobuf wire format ---- */

typedef struct {
  const uint8_t *at, *end;
} Bytes;

typedef struct {
  uint64_t number; /* the field's number */
  uint64_t value;  /* the value of a varint */
  Bytes bytes;     /* the content of a field with a length; otherwise empty */
} Field;

static int read_varint(Bytes *in, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 64 && in->at < in->end; shift += 7) {
    uint8_t byte = *in->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return 1;
  }
  return 0;
}

/* Reads one field and advances. Returns 0 at the end and on malformed bytes. */
static int next_field(Bytes *in, Field *field) {
  uint64_t key, length = 0;
  memset(field, 0, sizeof *field);
  if (in->at >= in->end || !read_varint(in, &key)) return 0;
  field->number = key >> 3;
  switch (key & 7) {
    case 0:
      return read_varint(in, &field->value);
    case 1:
      length = 8;
      break;
    case 2:
      if (!read_varint(in, &length)) return 0;
      break;
    case 5:
      length = 4;
      break;
    default:
      return 0;
  }
  if (length > (uint64_t)(in->end - in->at)) return 0;
  field->bytes.at = in->at;
  in->at += length;
  field->bytes.end = in->at;
  return 1;
}

static int get_field(Bytes in, uint64_t number, Field *field) {
  while (next_field(&in, field))
    if (field->number == number) return 1;
  return 0;
}

static int is_text(Bytes bytes, const char *text) {
  size_t size = strlen(text);
  return (size_t)(bytes.end - bytes.at) == size && !memcmp(bytes.at, text, size);
}

/* Looks up a key of a map: a repeated field of entries {1: key, 2: value}. */
static int get_from_map(Bytes message, uint64_t map, const char *key, Bytes *value) {
  Field entry, part;
  while (next_field(&message, &entry)) {
    if (entry.number != map || !get_field(entry.bytes, 1, &part)) continue;
    if (!is_text(part.bytes, key) || !get_field(entry.bytes, 2, &part)) continue;
    *value = part.bytes;
    return 1;
  }
  return 0;
}

static void print_keys(Bytes message, uint64_t map) {
  Field entry, key;
  while (next_field(&message, &entry))
    if (entry.number == map && get_field(entry.bytes, 1, &key))
      fprintf(stderr, " %.*s", (int)(key.bytes.end - key.bytes.at),
              (const char *)key.bytes.at);
  fprintf(stderr, "\n");
}

/* Field numbers of meta_graph.proto. */
enum { SIGNATURE_DEF = 5, INPUTS = 1, OUTPUTS = 2, NAME = 1, DTYPE = 2 };

/* ---- tensors ---- */

/* Looks up the tensor "name:index" of a TensorInfo in the graph. */
static int look_up(TF_Graph *graph, Bytes info, TF_Output *tensor) {
  Field name;
  char text[512];
  if (!get_field(info, NAME, &name)) return 0;
  size_t size = (size_t)(name.bytes.end - name.bytes.at);
  if (size >= sizeof text) return 0;
  memcpy(text, name.bytes.at, size);
  text[size] = '\0';
  char *colon = strrchr(text, ':');
  tensor->index = colon ? atoi(colon + 1) : 0;
  if (colon) *colon = '\0';
  tensor->oper = TF_GraphOperationByName(graph, text);
  return tensor->oper != NULL && tensor->index >= 0 &&
         tensor->index < TF_OperationNumOutputs(tensor->oper);
}

static int find_tensor(TF_Graph *graph, Bytes info, TF_Output *tensor) {
  if (look_up(graph, info, tensor)) return 1;
  fprintf(stderr, "client: the signature names tensors that are not in the graph\n");
  return 0;
}

/* Makes a batch with one element per value, no further axes. NULL on error. */
static TF_Tensor *tensor_of(TF_DataType dtype, char **values, int count) {
  int64_t shape[] = {count};
  size_t size = dtype == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(dtype);
  TF_Tensor *tensor = TF_AllocateTensor(dtype, shape, 1, size * (size_t)count);
  if (tensor == NULL) {
    fprintf(stderr, "client: out of memory\n");
    return NULL;
  }
  void *data = TF_TensorData(tensor);
  for (int i = 0; i < count; ++i) {
    char *end = "";
    if (dtype == TF_STRING) {
      TF_StringInit((TF_TString *)data + i);
      TF_StringCopy((TF_TString *)data + i, values[i], strlen(values[i]));
    } else if (dtype == TF_FLOAT) {
      ((float *)data)[i] = strtof(values[i], &end);
    } else {
      long long number = strtoll(values[i], &end, 10);
      if (dtype == TF_INT64) ((int64_t *)data)[i] = number;
      if (dtype == TF_INT32) ((int32_t *)data)[i] = (int32_t)number;
      if (dtype == TF_INT32 && number != (int32_t)number) end = values[i];
    }
    if (*end == '\0' && (dtype == TF_STRING || *values[i])) continue;
    fprintf(stderr, "client: not a number of this input: '%s'\n", values[i]);
    TF_DeleteTensor(tensor); /* numbers own nothing */
    return NULL;
  }
  return tensor;
}

/* A tensor that this program allocated does not own the memory of its strings. */
static void delete_tensor(TF_Tensor *tensor) {
  if (TF_TensorType(tensor) == TF_STRING)
    for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i)
      TF_StringDealloc((TF_TString *)TF_TensorData(tensor) + i);
  TF_DeleteTensor(tensor);
}

static void print_string(const TF_TString *string) {
  const char *at = TF_StringGetDataPointer(string);
  putchar('"');
  for (size_t left = TF_StringGetSize(string); left > 0; --left, ++at) {
    unsigned char byte = (unsigned char)*at;
    if (byte == '"' || byte == '\\')
      printf("\\%c", byte);
    else if (byte < 0x20)
      printf("\\u%04x", byte);
    else
      putchar(byte);
  }
  putchar('"');
}

/* JSON has no NaN and no infinity. Nine digits represent a float32 exactly. */
static void print_float(double value, int digits) {
  if (isfinite(value))
    printf("%.*g", digits, value);
  else
    printf("null");
}

static int is_printable(TF_DataType dtype) {
  return dtype == TF_FLOAT || dtype == TF_DOUBLE || dtype == TF_INT32 ||
         dtype == TF_INT64 || dtype == TF_BOOL || dtype == TF_STRING;
}

static void print_element(const TF_Tensor *tensor, int64_t i) {
  const void *data = TF_TensorData(tensor);
  switch (TF_TensorType(tensor)) {
    case TF_FLOAT:
      print_float(((const float *)data)[i], 9);
      break;
    case TF_DOUBLE:
      print_float(((const double *)data)[i], 17);
      break;
    case TF_INT32:
      printf("%" PRId32, ((const int32_t *)data)[i]);
      break;
    case TF_INT64:
      printf("%" PRId64, ((const int64_t *)data)[i]);
      break;
    case TF_BOOL:
      printf(((const unsigned char *)data)[i] ? "true" : "false");
      break;
    default: /* TF_STRING, see is_printable */
      print_string(&((const TF_TString *)data)[i]);
  }
}

/* Prints the part of the tensor that begins at element `first`, from `axis` on. */
static void print_part(const TF_Tensor *tensor, int axis, int64_t first) {
  if (axis == TF_NumDims(tensor)) {
    print_element(tensor, first);
    return;
  }
  int64_t stride = 1, size = TF_Dim(tensor, axis);
  for (int a = axis + 1; a < TF_NumDims(tensor); ++a) stride *= TF_Dim(tensor, a);
  putchar('[');
  for (int64_t i = 0; i < size; ++i) {
    if (i) printf(", ");
    print_part(tensor, axis + 1, first + i * stride);
  }
  putchar(']');
}

static void print_rows(const TF_Tensor *tensor) {
  int is_scalar = TF_NumDims(tensor) == 0;
  int64_t rows = is_scalar ? 1 : TF_Dim(tensor, 0), stride = 1;
  for (int a = 1; a < TF_NumDims(tensor); ++a) stride *= TF_Dim(tensor, a);
  for (int64_t row = 0; row < rows; ++row) {
    print_part(tensor, is_scalar ? 0 : 1, row * stride);
    putchar('\n');
  }
}

/* ---- the call ---- */

static int ok(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) == TF_OK) return 1;
  fprintf(stderr, "client: %s: %s\n", what, TF_Message(status));
  return 0;
}

enum { MOST_INPUTS = 16 };

/* The inputs of a call: tensors of the graph and their values, in one order. */
typedef struct {
  TF_Output tensors[MOST_INPUTS];
  TF_Tensor *values[MOST_INPUTS];
  int count;
} Feeds;

static int find_signature(const TF_Buffer *meta_graph, const char *signature,
                          Bytes *definition) {
  Bytes meta = {meta_graph->data, (const uint8_t *)meta_graph->data + meta_graph->length};
  if (get_from_map(meta, SIGNATURE_DEF, signature, definition)) return 1;
  fprintf(stderr, "client: no signature '%s'. Expected one of:", signature);
  print_keys(meta, SIGNATURE_DEF);
  return 0;
}

/* Adds the values of one input. */
static int feed(TF_Graph *graph, Bytes info, char **values, int count, Feeds *feeds) {
  Field field;
  int has_dtype = get_field(info, DTYPE, &field);
  TF_DataType dtype = has_dtype ? (TF_DataType)field.value : TF_STRING;
  if (dtype != TF_STRING && dtype != TF_FLOAT && dtype != TF_INT32 && dtype != TF_INT64) {
    fprintf(stderr, "client: cannot read values of TF_DataType %d\n", (int)dtype);
    return 0;
  }
  if (!find_tensor(graph, info, &feeds->tensors[feeds->count])) return 0;
  TF_Tensor *value = tensor_of(dtype, values, count);
  if (value == NULL) return 0;
  feeds->values[feeds->count++] = value;
  return 1;
}

/* Texts for the one input of a signature, or `--input NAME VALUE...` for each. */
static int feed_all(TF_Graph *graph, Bytes definition, char **arguments, int count,
                    Feeds *feeds) {
  Bytes rest = definition, info;
  Field entry = {0}, field, input;
  int inputs = 0, named = !strcmp(arguments[0], "--input");
  while (next_field(&rest, &field))
    if (field.number == INPUTS) entry = field, ++inputs;
  if (!named && inputs == 1 && get_field(entry.bytes, 2, &input) &&
      get_field(input.bytes, DTYPE, &field) && field.value == TF_STRING)
    return feed(graph, input.bytes, arguments, count, feeds);
  for (int i = 0, end; named && i + 1 < count; i = end) {
    for (end = i + 2; end < count && strcmp(arguments[end], "--input");) ++end;
    if (!get_from_map(definition, INPUTS, arguments[i + 1], &info) ||
        feeds->count == MOST_INPUTS)
      break;
    if (!feed(graph, info, arguments + i + 2, end - i - 2, feeds)) return 0;
  }
  if (named && feeds->count == inputs) return 1;
  fprintf(stderr, "client: %s Its inputs:",
          named ? "pass each input once: --input NAME VALUE..."
                : "the signature does not take texts alone: --input NAME VALUE...");
  print_keys(definition, INPUTS);
  return 0;
}

static int run(TF_Session *session, TF_Graph *graph, const TF_Buffer *meta_graph,
               char **arguments, int count, TF_Status *status) {
  Feeds feeds = {.count = 0};
  Bytes definition, info;
  TF_Output fetched;
  TF_Tensor *answer = NULL;
  int done = find_signature(meta_graph, arguments[1], &definition) &&
             feed_all(graph, definition, arguments + 3, count - 3, &feeds);
  if (done && !get_from_map(definition, OUTPUTS, arguments[2], &info)) {
    fprintf(stderr, "client: no output '%s'. Expected one of:", arguments[2]);
    print_keys(definition, OUTPUTS);
    done = 0;
  }
  done = done && find_tensor(graph, info, &fetched);
  if (done) {
    TF_SessionRun(session, NULL, feeds.tensors, feeds.values, feeds.count, &fetched,
                  &answer, 1, NULL, 0, NULL, status);
    done = ok(status, "running the model");
  }
  if (done && is_printable(TF_TensorType(answer))) {
    print_rows(answer);
  } else if (done) {
    fprintf(stderr, "client: cannot print numbers of TF_DataType %d\n",
            (int)TF_TensorType(answer));
    done = 0;
  }
  if (answer != NULL) TF_DeleteTensor(answer); /* it owns its strings */
  for (int i = 0; i < feeds.count; ++i) delete_tensor(feeds.values[i]);
  return done;
}

static int load_and_run(char **arguments, int count, TF_Status *status) {
  const char *tags[] = {"serve"};
  TF_Graph *graph = TF_NewGraph();
  TF_Buffer *meta_graph = TF_NewBuffer();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session = TF_LoadSessionFromSavedModel(
      options, NULL, arguments[0], tags, 1, graph, meta_graph, status);
  int done = ok(status, "loading the SavedModel") &&
             run(session, graph, meta_graph, arguments, count, status);
  if (session != NULL) {
    TF_CloseSession(session, status);
    done = ok(status, "closing the session") && done;
    TF_DeleteSession(session, status);
    done = ok(status, "deleting the session") && done;
  }
  TF_DeleteSessionOptions(options);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  return done;
}

int main(int argc, char **argv) {
  TF_Status *status = TF_NewStatus();
  int done = 1, first = 1;
  /* The library stays loaded: its kernels are in use. */
  for (; done && first + 1 < argc && !strcmp(argv[first], "--library"); first += 2) {
    TF_Library *library = TF_LoadLibrary(argv[first + 1], status);
    done = ok(status, argv[first + 1]);
    if (library != NULL) TF_DeleteLibraryHandle(library);
  }
  if (done && argc - first < 4) {
    fprintf(stderr,
            "usage: client [--library PATH]... SAVED_MODEL_DIR SIGNATURE OUTPUT_NAME "
            "TEXT...\n       or, in place of TEXT...: --input NAME VALUE... for each "
            "input\n");
    done = 0;
  } else if (done) {
    done = load_and_run(argv + first, argc - first, status);
  }
  TF_DeleteStatus(status);
  if (fflush(stdout) != 0 || ferror(stdout)) done = 0;
  return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
