/* Judges packed arguments; one copy serves all models. */
#include "mlf_arguments.h"

#include "mlf/model.h"

/* Where the shape is not known: memory of no type, such as a pool, may be larger. */
static int32_t check_size(const struct mlf_type* type, size_t size_bytes) {
  size_t least = type->size_bytes;
  return size_bytes < least || (type->dtype.bits != 0 && size_bytes != least) ? MLF_ERROR_SHAPE : 0;
}

static int32_t check_layout(const struct mlf_type* type, const DLTensor* tensor) {
  size_t elements = 1;
  int32_t axis;
  if (type->ndim >= 0 && tensor->ndim != type->ndim) {
    return MLF_ERROR_SHAPE;
  }
  if (tensor->byte_offset != 0) {
    return MLF_ERROR_NOT_CONTIGUOUS;
  }
  for (axis = tensor->ndim - 1; axis >= 0; --axis) {
    if (type->ndim >= 0 && tensor->shape[axis] != type->shape[axis]) {
      return MLF_ERROR_SHAPE;
    }
    if (tensor->strides && tensor->shape[axis] != 1 && tensor->strides[axis] != (int64_t)elements) {
      return MLF_ERROR_NOT_CONTIGUOUS;
    }
    elements *= (size_t)tensor->shape[axis];
  }
  return type->ndim < 0 ? check_size(type, elements * ((tensor->dtype.bits * tensor->dtype.lanes + 7u) / 8u)) : 0;
}

static int32_t check_tensor(const struct mlf_type* type, const DLTensor* tensor) {
  if (tensor == NULL || tensor->data == NULL) {
    return MLF_ERROR_NULL;
  }
  if (tensor->device.device_type != kDLCPU) {
    return MLF_ERROR_DEVICE;
  }
  if (type->dtype.bits != 0 && (tensor->dtype.code != type->dtype.code || tensor->dtype.bits != type->dtype.bits ||
                                tensor->dtype.lanes != type->dtype.lanes)) {
    return MLF_ERROR_DTYPE;
  }
  return check_layout(type, tensor);
}

int32_t mlf_check_arguments_1(const struct mlf_type* types, int count, const TVMValue* args, const int* type_codes,
                              int num_args) {
  int index;
  if (num_args != count) {
    return MLF_ERROR_ARGUMENT_COUNT;
  }
  for (index = 0; index < count; ++index) {
    int32_t status;
    if (type_codes[index] != kTVMDLTensorHandle && type_codes[index] != kTVMNDArrayHandle) {
      return MLF_ERROR_ARGUMENT_TYPE;
    }
    status = check_tensor(&types[index], (const DLTensor*)args[index].v_handle);
    if (status != 0) {
      return status;
    }
  }
  return 0;
}
