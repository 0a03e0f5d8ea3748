/* What these kernels use of onnxruntime's C interface, by its places in the published tables.
 *
 * onnxruntime only ever appends to `OrtApi`, and reads of `OrtCustomOp` what the version in its first field had
 * (onnxruntime_c_api.h: "Custom op creation", "ORT_API_VERSION"). Version 17, of January 2024, has all that
 * is needed here; every release since answers GetApi(17) with a table that begins as that one did.
 */
#ifndef HYLE_ORT_ABI_H
#define HYLE_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_VERSION = 17, ORT_OP_VERSION = 16 };
enum { ORT_FLOAT = 1, ORT_INT64 = 7 };       /* ONNXTensorElementDataType */
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 }; /* OrtCustomOpInputOutputCharacteristic */
enum { ORT_FAIL = 1 };                       /* OrtErrorCode */

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtDomain OrtDomain; /* OrtCustomOpDomain */
typedef struct OrtSessionOptions OrtSessionOptions;
typedef void (*const OrtApi)(void); /* a table of functions */

typedef struct {
  const OrtApi *(*get_api)(uint32_t version);
  const char *(*get_version_string)(void);
} OrtApiBase;

typedef struct OrtOp OrtOp; /* OrtCustomOp */
struct OrtOp {
  uint32_t version;
  void *(*create_kernel)(const OrtOp *, const OrtApi *, const OrtKernelInfo *);
  const char *(*name)(const OrtOp *);
  const char *(*execution_provider)(const OrtOp *);
  int (*input_type)(const OrtOp *, size_t);
  size_t (*input_count)(const OrtOp *);
  int (*output_type)(const OrtOp *, size_t);
  size_t (*output_count)(const OrtOp *);
  void (*compute)(void *, OrtKernelContext *);
  void (*destroy_kernel)(void *);
  int (*input_characteristic)(const OrtOp *, size_t);
  int (*output_characteristic)(const OrtOp *, size_t);
  int (*input_memory)(const OrtOp *, size_t);
  int (*variadic_input_least)(const OrtOp *);
  int (*variadic_input_homogeneous)(const OrtOp *);
  int (*variadic_output_least)(const OrtOp *);
  int (*variadic_output_homogeneous)(const OrtOp *);
  OrtStatus *(*create_kernel_v2)(const OrtOp *, const OrtApi *, const OrtKernelInfo *, void **);
  OrtStatus *(*compute_v2)(void *, OrtKernelContext *);
  void *later[16]; /* what newer versions added; never read at version 16 */
};

/* Function number `place` of the table, with its own type. */
#define ORT_CALL(api, place, result, ...) ((result(*)(__VA_ARGS__))(api)[place])
#define ort_create_status(api) ORT_CALL(api, 0, OrtStatus *, int, const char *)
#define ort_create_domain(api) ORT_CALL(api, 26, OrtStatus *, const char *, OrtDomain **)
#define ort_domain_add(api) ORT_CALL(api, 27, OrtStatus *, OrtDomain *, const OrtOp *)
#define ort_add_domain(api) ORT_CALL(api, 28, OrtStatus *, OrtSessionOptions *, OrtDomain *)
#define ort_tensor_data(api) ORT_CALL(api, 51, OrtStatus *, OrtValue *, void **)
#define ort_rank(api) ORT_CALL(api, 61, OrtStatus *, const OrtShape *, size_t *)
#define ort_dimensions(api) ORT_CALL(api, 62, OrtStatus *, const OrtShape *, int64_t *, size_t)
#define ort_shape(api) ORT_CALL(api, 65, OrtStatus *, const OrtValue *, OrtShape **)
#define ort_attribute_int(api) ORT_CALL(api, 86, OrtStatus *, const OrtKernelInfo *, const char *, int64_t *)
#define ort_input_count(api) ORT_CALL(api, 88, OrtStatus *, const OrtKernelContext *, size_t *)
#define ort_input(api) ORT_CALL(api, 90, OrtStatus *, const OrtKernelContext *, size_t, const OrtValue **)
#define ort_output(api) ORT_CALL(api, 91, OrtStatus *, OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)
#define ort_parallel_for(api) \
  ORT_CALL(api, 274, OrtStatus *, const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)
#define ort_release_shape(api) ORT_CALL(api, 99, void, OrtShape *)

#endif
