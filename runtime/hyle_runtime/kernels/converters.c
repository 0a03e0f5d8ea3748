/* The converters around a matrix product, each in one pass over its values: two operators for onnxruntime.
 *
 * twin.onnx defines both as functions of standard operators (`hyle_compiler.converters`), and without this library
 * onnxruntime runs those. What stands here gives equal answers: the same operations on every value in the same order,
 * without a fused multiply-add, and sums over copies in the order of the copies.
 *
 *   Drive  x, [factor] -> codes, [full_scale]
 *   Read   total, [deviates], [places], scale, [full_scale], [offset] -> values, or the largest of neighbours
 *
 * Every count is checked against the shapes that come before a value is touched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ort_abi.h"

enum { RANK = 16, CHUNK = 1024 };
/* A run of deviates is seldom in a near cache: the next one's first lines are asked for while one is added. */
enum { LINES = 8, LINE_BYTES = 64 };
/* onnxruntime takes some 60 µs a session for each operator that it is told of. */
enum { DRIVES = 8, READS = 32 };
/* Counts up when an operator comes to mean something else: a bundle and a library of different numbers do not meet. */
static const char DOMAIN[] = "hyle.converters.2";
/* Adding and taking off 1.5 * 2^23 rounds to the nearest integer, halves to even, below 2^22. */
static const float ROUND = 12582912.0f;
static const int64_t MOST_LEVELS = 1 << 21, MOST_POOLED = 1 << 10;
/* Fewer values than these are not worth another thread, nor is cutting them into more shares. */
static const int64_t LEAST_SHARED = 1 << 16, MOST_SHARES = 64;

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

typedef struct {
  const void *data;
  int64_t dims[RANK];
  size_t rank;
  int64_t count;
} Tensor;

/* ---- values ---- */

INLINE float bounded(float v, float top) {
  v = v < -top ? -top : v;
  return v > top ? top : v;
}

INLINE float rounded(float v) { return (v + ROUND) - ROUND; }

FOR_EACH_PROCESSOR
static void drive(float *codes, const float *x, int64_t n, float factor, float top) {
  for (int64_t i = 0; i < n; i++) codes[i] = rounded(bounded(x[i] * factor, top));
}

/* Magnitudes are compared as integers, which orders floats without a sign as they are. */
FOR_EACH_PROCESSOR
static float largest(const float *x, int64_t n) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  float result;
  memcpy(&result, &most, sizeof result);
  return result;
}

/* Where a read's noise lies: all of it in order, or runs of a table at places of their own for each of its groups. */
typedef struct {
  const float *data;
  const int64_t *places;
  int64_t width, runs, volume;
} Noise;

/* The noise from one value on, which begins at number `first` of the runs at `places`. */
typedef struct {
  const float *data;
  const int64_t *places;
  int64_t width, first;
} Deviates;

INLINE Deviates noise_from(const Noise *noise, int64_t value) {
  if (!noise->places) return (Deviates){noise->data ? noise->data + value : NULL, NULL, 0, 0};
  return (Deviates){noise->data, noise->places + value / noise->volume * noise->runs, noise->width,
                    value % noise->volume};
}

/* Deviates from number `start` on, as many of `n` as lie side by side; those after them are asked for meanwhile. */
INLINE const float *deviates_of(const Deviates *d, int64_t start, int64_t *n) {
  if (!d->places) return d->data + start;
  start += d->first;
  /* A division of 32 bits takes a third of the time. */
  const int64_t run = start <= UINT32_MAX ? (uint32_t)start / (uint32_t)d->width : start / d->width;
  const int64_t at = start - run * d->width;
  if (*n > d->width - at) {
    *n = d->width - at;
    const char *next = (const char *)(d->data + d->places[run + 1] * d->width);
    for (int line = 0; line < LINES; line++) __builtin_prefetch(next + line * LINE_BYTES);
  }
  return d->data + d->places[run] * d->width + at;
}

typedef struct {
  float *values;
  const float *total;
  const float *scale, *full_scale, *offset;
  int64_t outer, parts, cols, inner; /* total: outer x (parts x cols) x inner */
  int each, whole;                   /* a scale for every part; a full scale for all */
  int rectify;                       /* nothing below 0 */
  float top;                         /* 0: continuous */
  Noise noise;
  /* The largest of `high` x `wide` values, of maps of `height` x `width`; 0: all values. */
  int64_t high, wide, height, width;
} Reading;

/* Codes of one part, added to `sum` or its beginning. What is constant at a call costs nothing. */
INLINE void add(float *restrict sum, const float *restrict total, const float *restrict deviates,
                const float *restrict scale, int64_t n, float top, const int noisy, const int digital, const int each,
                const int step, const int begin) {
  for (int64_t i = 0; i < n; i++) {
    const float v = noisy ? total[i] + deviates[i] : total[i];
    const float code = digital ? rounded(bounded(v, top)) : v;
    const float scaled = each ? code * scale[i * step] : code;
    sum[i] = begin ? scaled : sum[i] + scaled;
  }
}

INLINE void add_some(const Reading *r, float *sum, const float *total, const float *deviates, const float *scale,
                     int64_t n, const int noisy, const int step, const int begin) {
  if (r->top > 0.0f && r->each)
    add(sum, total, deviates, scale, n, r->top, noisy, 1, 1, step, begin);
  else if (r->top > 0.0f)
    add(sum, total, deviates, scale, n, r->top, noisy, 1, 0, step, begin);
  else if (r->each)
    add(sum, total, deviates, scale, n, r->top, noisy, 0, 1, step, begin);
  else
    add(sum, total, deviates, scale, n, r->top, noisy, 0, 0, step, begin);
}

/* Values of one column, or (with a step of 1) of columns side by side: `n` of each part. The first part's sums begin at
 * `total` and its deviates at number `start`, the next one's `apart` and `later` after them.
 */
INLINE void read_some(const Reading *r, float *values, int64_t sample, const float *total, int64_t apart,
                      const Deviates *noise, int64_t start, int64_t later, int64_t column, int64_t n, const int step) {
  for (int64_t p = 0; p < r->parts; p++, total += apart, start += later) {
    const float *scale = r->scale + (r->each ? p * r->cols : 0) + column;
    for (int64_t at = 0, some; at < n; at += some) {
      some = n - at;
      const float *deviates = noise->data ? deviates_of(noise, start + at, &some) : NULL;
      if (!deviates)
        add_some(r, values + at, total + at, NULL, scale + at * step, some, 0, step, p == 0);
      else if (p == 0)
        add_some(r, values + at, total + at, deviates, scale + at * step, some, 1, step, 1);
      else
        add_some(r, values + at, total + at, deviates, scale + at * step, some, 1, step, 0);
    }
  }
  const float *scale = r->scale + column;
  if (!r->each)
    for (int64_t i = 0; i < n; i++) values[i] *= scale[i * step];
  if (r->full_scale) {
    const float full = r->full_scale[r->whole ? 0 : sample];
    for (int64_t i = 0; i < n; i++) values[i] *= full;
  }
  if (r->offset) {
    const float *offset = r->offset + column;
    for (int64_t i = 0; i < n; i++) values[i] += offset[i * step];
  }
  if (r->rectify)
    for (int64_t i = 0; i < n; i++) values[i] = values[i] > 0.0f ? values[i] : 0.0f;
}

/* Vectors `begin` to `end`, whose columns lie side by side. */
FOR_EACH_PROCESSOR
static void read_columns(const Reading *r, int64_t begin, int64_t end) {
  const int64_t width = r->parts * r->cols;
  for (int64_t n = begin; n < end; n++) {
    const Deviates noise = noise_from(&r->noise, n * width);
    for (int64_t c = 0; c < r->cols; c += CHUNK) {
      const int64_t count = r->cols - c < CHUNK ? r->cols - c : CHUNK;
      read_some(r, r->values + n * r->cols + c, n, r->total + n * width + c, r->cols, &noise, c, r->cols, c, count, 1);
    }
  }
}

/* Samples `begin` to `end`, whose columns have a map of values each. */
FOR_EACH_PROCESSOR
static void read_maps(const Reading *r, int64_t begin, int64_t end) {
  const int64_t volume = r->parts * r->cols * r->inner, apart = r->cols * r->inner;
  for (int64_t n = begin; n < end; n++) {
    const Deviates noise = noise_from(&r->noise, n * volume);
    for (int64_t c = 0; c < r->cols; c++)
      for (int64_t s = 0; s < r->inner; s += CHUNK) {
        const int64_t count = r->inner - s < CHUNK ? r->inner - s : CHUNK, at = c * r->inner + s;
        read_some(r, r->values + n * apart + at, n, r->total + n * volume + at, apart, &noise, at, apart, c, count, 0);
      }
  }
}

/* The largest of each `wide` values side by side. */
INLINE void narrow(float *restrict out, const float *restrict values, int64_t n, const int64_t wide) {
  for (int64_t o = 0; o < n; o++) {
    float most = values[o * wide];
    for (int64_t x = 1; x < wide; x++) most = most > values[o * wide + x] ? most : values[o * wide + x];
    out[o] = most;
  }
}

INLINE void larger(float *restrict out, const float *restrict a, const float *restrict b, int64_t n) {
  for (int64_t x = 0; x < n; x++) out[x] = a[x] > b[x] ? a[x] : b[x];
}

INLINE void lift(float *restrict out, const float *restrict other, int64_t n) {
  for (int64_t x = 0; x < n; x++) out[x] = out[x] > other[x] ? out[x] : other[x];
}

/* Rows of a map, pooled to `out`; a rest at the right is dropped. `room` is for as many values, narrowed. */
INLINE void pool(const Reading *r, float *out, const float *values, float *room, int64_t rows, int64_t across) {
  /* Without a rest, rows lie in one line. */
  const int64_t lines = r->width % r->wide ? rows : 1, each = rows / lines * across;
  for (int64_t y = 0; y < lines; y++)
    if (r->wide == 2)
      narrow(room + y * each, values + y * r->width, each, 2);
    else
      narrow(room + y * each, values + y * r->width, each, r->wide);
  for (int64_t y = 0; y < rows; y += r->high, out += across) {
    float *row = room + y * across;
    for (int64_t under = 1; under + 1 < r->high; under++) lift(row, row + under * across, across);
    larger(out, row, row + (r->high - 1) * across, across);
  }
}

/* The same as `read_maps`, pooled: `rows` rows of a map at once, whole windows of them, with `room` for them twice. */
FOR_EACH_PROCESSOR
static void read_pooled(const Reading *r, int64_t begin, int64_t end, int64_t rows, float *room) {
  const int64_t volume = r->parts * r->cols * r->inner, apart = r->cols * r->inner;
  const int64_t down = r->height / r->high, across = r->width / r->wide;
  for (int64_t n = begin; n < end; n++) {
    const Deviates noise = noise_from(&r->noise, n * volume);
    for (int64_t c = 0; c < r->cols; c++) {
      float *out = r->values + (n * r->cols + c) * down * across;
      for (int64_t y = 0; y < down * r->high; y += rows, out += rows / r->high * across) {
        const int64_t here = down * r->high - y < rows ? down * r->high - y : rows, at = c * r->inner + y * r->width;
        const float *total = r->total + n * volume + at;
        read_some(r, room, n, total, apart, &noise, at, apart, c, here * r->width, 0);
        pool(r, out, room, room + rows * r->width, here, across);
      }
    }
  }
}

/* ---- onnxruntime ---- */

typedef struct {
  const OrtApi *api;
  int64_t levels, axis, parts, rectify, high, wide;
} Kernel;

#define TRY(call)                \
  do {                           \
    OrtStatus *status_ = (call); \
    if (status_) return status_; \
  } while (0)

static OrtStatus *refuse(const OrtApi *api, const char *what) { return ort_create_status(api)(ORT_FAIL, what); }

/* A value's shape and data. */
static OrtStatus *look(const OrtApi *api, const OrtValue *value, Tensor *t) {
  OrtShape *shape = NULL;
  TRY(ort_shape(api)(value, &shape));
  OrtStatus *status = ort_rank(api)(shape, &t->rank);
  if (!status && t->rank > RANK) status = refuse(api, "hyle.converters: more than 16 axes");
  if (!status) status = ort_dimensions(api)(shape, t->dims, t->rank);
  ort_release_shape(api)(shape);
  if (status) return status;
  t->count = 1;
  for (size_t i = 0; i < t->rank; i++) t->count *= t->dims[i];
  void *data;
  TRY(ort_tensor_data(api)((OrtValue *)value, &data));
  t->data = data ? data : "";
  return NULL;
}

/* An input; its data is NULL where it is left out. */
static OrtStatus *input(const OrtApi *api, const OrtKernelContext *context, size_t number, Tensor *t) {
  memset(t, 0, sizeof *t);
  size_t inputs;
  TRY(ort_input_count(api)(context, &inputs));
  if (number >= inputs) return NULL;
  const OrtValue *value = NULL;
  TRY(ort_input(api)(context, number, &value));
  return value ? look(api, value, t) : NULL;
}

static OrtStatus *output(const OrtApi *api, OrtKernelContext *context, size_t number, const int64_t *dims, size_t rank,
                         float **data) {
  OrtValue *value = NULL;
  TRY(ort_output(api)(context, number, dims, rank, &value));
  if (!value) return refuse(api, "hyle.converters: an output is missing");
  return ort_tensor_data(api)(value, (void **)data);
}

static int64_t product(const int64_t *dims, size_t from, size_t to) {
  int64_t result = 1;
  for (size_t i = from; i < to; i++) result *= dims[i];
  return result;
}

static OrtStatus *compute_drive(void *state, OrtKernelContext *context) {
  const Kernel *k = state;
  const OrtApi *api = k->api;
  Tensor x, factor;
  TRY(input(api, context, 0, &x));
  TRY(input(api, context, 1, &factor));
  float *codes;
  TRY(output(api, context, 0, x.dims, x.rank, &codes));
  const float top = (float)k->levels;
  if (factor.data) {
    if (factor.count != 1) return refuse(api, "hyle.converters: Drive needs one factor");
    drive(codes, x.data, x.count, *(const float *)factor.data, top);
    return NULL;
  }
  /* One range for each sample: all axes but the first, or the last axis alone. */
  if (x.rank < 1) return refuse(api, "hyle.converters: Drive needs an axis");
  const size_t kept = k->axis == 1 ? 1 : x.rank - 1;
  int64_t dims[RANK];
  for (size_t i = 0; i < x.rank; i++) dims[i] = i < kept ? x.dims[i] : 1;
  float *full;
  TRY(output(api, context, 1, dims, x.rank, &full));
  const int64_t samples = product(x.dims, 0, kept), size = product(x.dims, kept, x.rank);
  for (int64_t n = 0; n < samples; n++) {
    const float *values = (const float *)x.data + n * size;
    full[n] = largest(values, size);
    drive(codes + n * size, values, size, top / (full[n] + 1e-30f), top);
  }
  return NULL;
}

/* How the deviates of `total` are found; what does not fit is refused. */
static OrtStatus *noise_of(const OrtApi *api, const Tensor *total, const Tensor *deviates, const Tensor *places,
                           int64_t one, Noise *noise) {
  memset(noise, 0, sizeof *noise);
  if (!deviates->data) return NULL;
  noise->data = deviates->data;
  if (!places->data)
    return deviates->count == total->count ? NULL : refuse(api, "hyle.converters: Read has not one deviate a value");
  if (deviates->rank != 2 || deviates->dims[1] < 1)
    return refuse(api, "hyle.converters: the table of deviates is no matrix");
  const int64_t groups = places->rank == 2 ? places->dims[0] : 1;
  noise->places = places->data;
  noise->width = deviates->dims[1];
  if (groups < 1 || total->count % groups) return refuse(api, "hyle.converters: the places of deviates fit no sample");
  noise->runs = places->count / groups;
  noise->volume = total->count / groups;
  if (noise->volume % one || noise->runs * noise->width < noise->volume)
    return refuse(api, "hyle.converters: there are too few places of deviates");
  for (int64_t i = 0; i < places->count; i++)
    if (noise->places[i] < 0 || noise->places[i] >= deviates->dims[0])
      return refuse(api, "hyle.converters: a place lies outside the table of deviates");
  return NULL;
}

/* What is done with sums of these shapes. */
static OrtStatus *reading(const Kernel *k, const OrtKernelContext *context, const Tensor *total, size_t axis,
                          Reading *r) {
  const OrtApi *api = k->api;
  Tensor deviates, places, scale, full, offset;
  TRY(input(api, context, 1, &deviates));
  TRY(input(api, context, 2, &places));
  TRY(input(api, context, 3, &scale));
  TRY(input(api, context, 4, &full));
  TRY(input(api, context, 5, &offset));
  const int64_t cols = total->dims[axis] / k->parts;
  *r = (Reading){.total = total->data, .scale = scale.data, .full_scale = full.data, .offset = offset.data};
  r->outer = product(total->dims, 0, axis);
  r->inner = product(total->dims, axis + 1, total->rank);
  r->parts = k->parts;
  r->cols = cols;
  r->each = k->parts > 1 && scale.count == k->parts * cols;
  r->whole = full.count == 1;
  r->top = (float)k->levels;
  r->rectify = k->rectify != 0;
  if (k->high) {
    /* A map of one axis is one row. */
    if (axis != 1 || total->rank < 3 || total->rank > 4 || (total->rank == 3 && k->high != 1))
      return refuse(api, "hyle.converters: Read pools maps of one or two axes");
    r->high = k->high;
    r->wide = k->wide;
    r->width = total->dims[total->rank - 1];
    r->height = r->width ? r->inner / r->width : 0;
  }
  if (!scale.data || (!r->each && scale.count != cols))
    return refuse(api, "hyle.converters: Read needs a scale for each column");
  if (offset.data && offset.count != cols) return refuse(api, "hyle.converters: Read needs an offset for each column");
  if (full.data && !r->whole && full.count != r->outer)
    return refuse(api, "hyle.converters: Read needs a full scale for each sample");
  if (!total->count) return NULL;
  return noise_of(api, total, &deviates, &places, total->dims[axis] * r->inner, &r->noise);
}

/* A reading that several threads may share, `size` vectors or samples each. */
typedef struct {
  const Reading *reading;
  int64_t size, rows; /* `rows` of a map at once, where maps are pooled */
  float *room;        /* for so many, twice, in each share */
} Work;

static void read_share(void *shared, size_t number) {
  const Work *w = shared;
  const int64_t begin = (int64_t)number * w->size, rest = w->reading->outer - begin;
  const int64_t end = begin + (rest < w->size ? rest : w->size);
  if (w->room)
    read_pooled(w->reading, begin, end, w->rows, w->room + (int64_t)number * 2 * w->rows * w->reading->width);
  else if (w->reading->inner == 1)
    read_columns(w->reading, begin, end);
  else
    read_maps(w->reading, begin, end);
}

static OrtStatus *compute_read(void *state, OrtKernelContext *context) {
  const Kernel *k = state;
  const OrtApi *api = k->api;
  Tensor total;
  TRY(input(api, context, 0, &total));
  const size_t axis = k->axis == 1 ? 1 : total.rank - 1;
  if (total.rank < 1 || axis >= total.rank || total.dims[axis] % k->parts)
    return refuse(api, "hyle.converters: Read's columns are not whole parts");
  Reading r;
  TRY(reading(k, context, &total, axis, &r));
  int64_t dims[RANK];
  memcpy(dims, total.dims, sizeof dims);
  dims[axis] = r.cols;
  if (r.high) {
    dims[total.rank - 1] = r.width / r.wide;
    if (total.rank == 4) dims[2] = r.height / r.high;
  }
  TRY(output(api, context, 0, dims, total.rank, &r.values));
  if (!product(dims, 0, total.rank)) return NULL;
  /* The session's threads share it, unless it is too little for that. */
  const int64_t shares = total.count < LEAST_SHARED ? 1 : r.outer < MOST_SHARES ? r.outer : MOST_SHARES;
  Work work = {&r, (r.outer + shares - 1) / shares, 0, NULL};
  const int64_t count = (r.outer + work.size - 1) / work.size;
  if (r.high) {
    const int64_t windows = CHUNK / (r.high * r.width), most = r.height / r.high;
    work.rows = r.high * (windows < 1 ? 1 : windows < most ? windows : most);
    work.room = malloc((size_t)(2 * count * work.rows * r.width) * sizeof *work.room);
    if (!work.room) return refuse(api, "hyle.converters: out of memory");
  }
  OrtStatus *status = NULL;
  if (count > 1)
    status = ort_parallel_for(api)(context, read_share, (size_t)count, 0, &work);
  else
    read_share(&work, 0);
  free(work.room);
  return status;
}

/* An operator's description; the number in its name tells apart what the graph's own functions define differently. */
enum { DRIVE, READ, KINDS };
static const struct {
  const char *name;
  size_t inputs, outputs;
  OrtStatus *(*compute)(void *, OrtKernelContext *);
  const char *types; /* of its inputs: f is float, i is int64; capital letters may be left out */
} KIND[KINDS] = {
    {"Drive", 2, 2, compute_drive, "fF"},
    {"Read", 6, 1, compute_read, "fFIfFF"},
};

typedef struct {
  OrtOp op;
  char name[16];
  int kind;
} Described;

#define DESCRIBED(op) ((const Described *)(const void *)(op))

static const char *name_of(const OrtOp *op) { return DESCRIBED(op)->name; }
static const char *on_the_processor(const OrtOp *op) { return (void)op, (const char *)NULL; }
static size_t inputs_of(const OrtOp *op) { return KIND[DESCRIBED(op)->kind].inputs; }
static size_t outputs_of(const OrtOp *op) { return KIND[DESCRIBED(op)->kind].outputs; }
static int input_type(const OrtOp *op, size_t i) {
  const char letter = KIND[DESCRIBED(op)->kind].types[i];
  return letter == 'i' || letter == 'I' ? ORT_INT64 : ORT_FLOAT;
}
static int output_type(const OrtOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int input_needed(const OrtOp *op, size_t i) {
  return KIND[DESCRIBED(op)->kind].types[i] >= 'a' ? ORT_REQUIRED : ORT_OPTIONAL;
}
static int output_needed(const OrtOp *op, size_t i) { return (void)op, i == 0 ? ORT_REQUIRED : ORT_OPTIONAL; }
static int anywhere(const OrtOp *op, size_t i) { return (void)op, (void)i, 0; }
static int one(const OrtOp *op) { return (void)op, 1; }

static OrtStatus *create(const OrtOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  Kernel k = {.api = api, .parts = 1};
  TRY(ort_attribute_int(api)(info, "levels", &k.levels));
  TRY(ort_attribute_int(api)(info, "axis", &k.axis));
  if (DESCRIBED(op)->kind == READ) {
    TRY(ort_attribute_int(api)(info, "parts", &k.parts));
    TRY(ort_attribute_int(api)(info, "rectify", &k.rectify));
    TRY(ort_attribute_int(api)(info, "pool_height", &k.high));
    TRY(ort_attribute_int(api)(info, "pool_width", &k.wide));
  }
  const int64_t least = DESCRIBED(op)->kind == DRIVE ? 1 : 0;
  if (k.levels < least || k.levels > MOST_LEVELS || k.parts < 1 || (k.axis != 1 && k.axis != -1) ||
      k.high < 0 || k.high > MOST_POOLED || k.wide < 0 || k.wide > MOST_POOLED || !k.high != !k.wide)
    return refuse(api, "hyle.converters: an attribute is out of range");
  *kernel = malloc(sizeof k);
  if (!*kernel) return ort_create_status(api)(ORT_FAIL, "hyle.converters: out of memory");
  memcpy(*kernel, &k, sizeof k);
  return NULL;
}

static Described described[DRIVES + READS];

static void describe(void) {
  for (int i = 0; i < DRIVES + READS; i++) {
    Described *d = described + i;
    d->kind = i < DRIVES ? DRIVE : READ;
    snprintf(d->name, sizeof d->name, "%s%d", KIND[d->kind].name, i < DRIVES ? i : i - DRIVES);
    d->op = (OrtOp){
        .version = ORT_OP_VERSION,
        .name = name_of,
        .execution_provider = on_the_processor,
        .input_type = input_type,
        .input_count = inputs_of,
        .output_type = output_type,
        .output_count = outputs_of,
        .destroy_kernel = free,
        .input_characteristic = input_needed,
        .output_characteristic = output_needed,
        .input_memory = anywhere,
        .variadic_input_least = one,
        .variadic_input_homogeneous = one,
        .variadic_output_least = one,
        .variadic_output_homogeneous = one,
        .create_kernel_v2 = create,
        .compute_v2 = KIND[d->kind].compute,
    };
  }
}

EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  const OrtApi *api = base->get_api(ORT_VERSION);
  if (!api) return NULL;
  /* The domain refers to the descriptions for as long as the process lives; once they stand, nobody writes them again.
   */
  static OrtDomain *domain;
  if (!domain) {
    describe();
    OrtDomain *fresh = NULL;
    TRY(ort_create_domain(api)(DOMAIN, &fresh));
    for (int i = 0; i < DRIVES + READS; i++) TRY(ort_domain_add(api)(fresh, &described[i].op));
    domain = fresh;
  }
  return ort_add_domain(api)(options, domain);
}
