/* The converters around a matrix product, each in one pass over its values: two operators for onnxruntime.
 *
 * twin.onnx defines both as functions of standard operators (`hyle_compiler.converters`), and without this library
 * onnxruntime runs those. What stands here gives equal answers: the same operations on every value in the same order,
 * without a fused multiply-add, and sums over copies in the order of the copies.
 *
 *   Drive  x, [factor] -> codes, [full_scale]
 *   Read   total, [deviates], [places], scale, [full_scale], [offset] -> values
 *
 * Every count is checked against the shapes that come before a value is touched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ort_abi.h"

enum { RANK = 16, CHUNK = 256, TOGETHER = 4 };
/* onnxruntime takes some 60 µs a session for each operator that it is told of. */
enum { DRIVES = 8, READS = 32 };
static const char DOMAIN[] = "hyle.converters";
/* Adding and taking off 1.5 * 2^23 rounds to the nearest integer, halves to even, below 2^22. */
static const float ROUND = 12582912.0f;
static const int64_t MOST_LEVELS = 1 << 21;
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

/* `n` deviates from number `start` on: where they lie, or brought together in `room`. */
INLINE const float *deviates_of(const Deviates *d, int64_t start, int64_t n, float *room) {
  if (!d->places) return d->data + start;
  start += d->first;
  /* A division of 32 bits takes a third of the time. */
  const int64_t run = start <= UINT32_MAX ? (uint32_t)start / (uint32_t)d->width : start / d->width;
  const int64_t *place = d->places + run;
  int64_t at = start - run * d->width;
  if (at + n <= d->width) return d->data + *place * d->width + at;
  for (int64_t done = 0; done < n; place++, at = 0) {
    const int64_t some = d->width - at < n - done ? d->width - at : n - done;
    memcpy(room + done, d->data + *place * d->width + at, (size_t)some * sizeof *room);
    done += some;
  }
  return room;
}

typedef struct {
  float *values;
  const float *total;
  const float *scale, *full_scale, *offset;
  int64_t outer, parts, cols, inner; /* total: outer x (parts x cols) x inner */
  int each, whole;                   /* a scale for every part; a full scale for all */
  float top;                         /* 0: continuous */
  Noise noise;
} Reading;

/* Some values of one part: their sums, their deviates, and the scale of the first. */
typedef struct {
  const float *total, *deviates, *scale;
} Part;

/* Codes of some parts, added to `sum` one after another, or its beginning. What is constant at a call costs nothing. */
INLINE void add(float *restrict sum, const Part *part, const int parts, int64_t n, float top, const int digital,
                const int each, const int step, const int begin) {
  for (int64_t i = 0; i < n; i++) {
    float v = begin ? 0.0f : sum[i];
    for (int p = 0; p < parts; p++) {
      const float noisy = part[p].total[i] + part[p].deviates[i];
      const float code = digital ? rounded(bounded(noisy, top)) : noisy;
      const float scaled = each ? code * part[p].scale[i * step] : code;
      v = begin && p == 0 ? scaled : v + scaled;
    }
    sum[i] = v;
  }
}

INLINE void add_together(float *sum, const Part *part, int parts, int64_t n, float top, const int digital,
                         const int each, const int step, int begin) {
  if (!begin) {
    for (int p = 0; p < parts; p++) add(sum, part + p, 1, n, top, digital, each, step, 0);
    return;
  }
  switch (parts) {
    case 1:
      add(sum, part, 1, n, top, digital, each, step, 1);
      break;
    case 2:
      add(sum, part, 2, n, top, digital, each, step, 1);
      break;
    case 3:
      add(sum, part, 3, n, top, digital, each, step, 1);
      break;
    default:
      add(sum, part, 4, n, top, digital, each, step, 1);
      break;
  }
}

/* Values of one column, or (with a step of 1) of columns side by side: `n` of each part. The first part's sums begin at
 * `total` and its deviates at number `start`, the next one's `apart` and `later` after them.
 */
INLINE void read_some(const Reading *r, float *values, int64_t sample, const float *total, int64_t apart,
                      const Deviates *noise, int64_t start, int64_t later, int64_t column, int64_t n, const int step) {
  static const float still[CHUNK];
  float sum[CHUNK], room[TOGETHER][CHUNK];
  for (int64_t done = 0; done < r->parts; done += TOGETHER) {
    const int parts = (int)(r->parts - done < TOGETHER ? r->parts - done : TOGETHER);
    Part part[TOGETHER] = {{0}};
    for (int p = 0; p < parts; p++) {
      part[p].total = total + (done + p) * apart;
      part[p].deviates = noise->data ? deviates_of(noise, start + (done + p) * later, n, room[p]) : still;
      part[p].scale = r->scale + (r->each ? (done + p) * r->cols : 0) + column;
    }
    if (r->top > 0.0f && r->each)
      add_together(sum, part, parts, n, r->top, 1, 1, step, done == 0);
    else if (r->top > 0.0f)
      add_together(sum, part, parts, n, r->top, 1, 0, step, done == 0);
    else if (r->each)
      add_together(sum, part, parts, n, r->top, 0, 1, step, done == 0);
    else
      add_together(sum, part, parts, n, r->top, 0, 0, step, done == 0);
  }
  const float *scale = r->scale + column;
  if (!r->each)
    for (int64_t i = 0; i < n; i++) sum[i] *= scale[i * step];
  if (r->full_scale) {
    const float full = r->full_scale[r->whole ? 0 : sample];
    for (int64_t i = 0; i < n; i++) sum[i] *= full;
  }
  if (r->offset) {
    const float *offset = r->offset + column;
    for (int64_t i = 0; i < n; i++) sum[i] += offset[i * step];
  }
  memcpy(values, sum, (size_t)n * sizeof *sum);
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

/* ---- onnxruntime ---- */

typedef struct {
  const OrtApi *api;
  int64_t levels, axis, parts;
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
  int64_t size;
} Work;

static void read_share(void *shared, size_t number) {
  const Work *w = shared;
  const int64_t begin = (int64_t)number * w->size, rest = w->reading->outer - begin;
  const int64_t end = begin + (rest < w->size ? rest : w->size);
  if (w->reading->inner == 1)
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
  TRY(output(api, context, 0, dims, total.rank, &r.values));
  if (!total.count) return NULL;
  /* The session's threads share it, unless it is too little for that. */
  const int64_t shares = total.count < LEAST_SHARED ? 1 : r.outer < MOST_SHARES ? r.outer : MOST_SHARES;
  Work work = {&r, (r.outer + shares - 1) / shares};
  const int64_t count = (r.outer + work.size - 1) / work.size;
  if (count > 1) return ort_parallel_for(api)(context, read_share, (size_t)count, 0, &work);
  read_share(&work, 0);
  return NULL;
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
  if (DESCRIBED(op)->kind == READ) TRY(ort_attribute_int(api)(info, "parts", &k.parts));
  const int64_t least = DESCRIBED(op)->kind == DRIVE ? 1 : 0;
  if (k.levels < least || k.levels > MOST_LEVELS || k.parts < 1 || (k.axis != 1 && k.axis != -1))
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
