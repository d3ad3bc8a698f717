// Registers llama::fast_hadamard_transform.out with a kernel that is linked from elsewhere: ExecuTorch's own.

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

namespace torch::executor::native {
executorch::aten::Tensor& fast_hadamard_transform_out(
    executorch::runtime::KernelRuntimeContext& context,
    const executorch::aten::Tensor& mat,
    executorch::aten::Tensor& out);
}

EXECUTORCH_LIBRARY(llama, "fast_hadamard_transform.out", torch::executor::native::fast_hadamard_transform_out);
