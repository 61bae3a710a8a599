// What the entry points use of torch's library, for tensors that are in truth on the CPU: to the entry points they are
// on device recorder::kDevice, which has one stream; no launch fails. What is asked for is noted.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdint>

#include "recorder.h"

namespace {

using recorder::note;

// torch's own function of this name, which is hidden from the entry points by the one here.
template <class Function>
Function* of_torch(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}
#define OF_TORCH(function) of_torch(&function, #function)

}  // namespace

extern "C" {

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  *index = recorder::kDevice;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_create_device_guard(int32_t index, DeviceGuardHandle* guard) {
  static char anything;
  *guard = reinterpret_cast<DeviceGuardHandle>(&anything);
  note("guard " + std::to_string(index));
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  note("unguard");
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t index, void** stream) {
  note("stream " + std::to_string(index));
  *stream = recorder::current_stream();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t device_type, int32_t, AtenTensorHandle* tensor) {
  static const auto empty_strided = OF_TORCH(aoti_torch_empty_strided);
  const AOTITorchError error = empty_strided(dim, sizes, strides, dtype, device_type, 0, tensor);
  int64_t bytes = 0;
  if (error == AOTI_TORCH_SUCCESS && aoti_torch_get_storage_size(*tensor, &bytes) == AOTI_TORCH_SUCCESS)
    note("allocate " + std::to_string(reinterpret_cast<std::uintptr_t>(*tensor)) + " " + std::to_string(bytes));
  return error;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  static const auto delete_tensor = OF_TORCH(aoti_torch_delete_tensor_object);
  note("free " + std::to_string(reinterpret_cast<std::uintptr_t>(tensor)));
  return delete_tensor(tensor);
}

AOTITorchError torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack, uint64_t version) {
  static const auto call = OF_TORCH(torch_call_dispatcher);
  note(std::string("call ") + name);
  return call(name, overload, stack, version);
}

AOTITorchError torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char** message) {
  *message = nullptr;
  return AOTI_TORCH_SUCCESS;
}
void torch_c10_cuda_free_error_msg(char*) {}

}  // extern "C"
