// runner MODEL.pte INPUT OUTPUT: runs the method `forward` of a program on one thread, once to warm up and once between
// the two markers that count_instructions.c waits for. INPUT and OUTPUT are the raw float32 values of its only input
// and output. Errors are one line on stderr and status 1.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

// ExecuTorch's wheel exports these and does not ship their header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::extension::Module;
using executorch::runtime::EValue;

// System calls that no kernel has: it answers ENOSYS, and nobody else makes them.
constexpr long kBegin = 9001, kEnd = 9002;

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "runner: %s\n", why.c_str());
  std::exit(1);
}

template <typename T>
T require(executorch::runtime::Result<T> result, const std::string& what) {
  if (!result.ok()) fail(what + ": error " + std::to_string(static_cast<uint32_t>(result.error())));
  return std::move(result.get());
}

std::vector<float> read(const char* path, size_t count) {
  std::vector<float> values(count);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(values.data()), count * sizeof(float));
  if (!file || file.peek() != EOF) fail(std::string(path) + " does not hold " + std::to_string(count) + " floats");
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) fail("usage: runner MODEL.pte INPUT OUTPUT");
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);
  Module module(argv[1], Module::LoadMode::Mmap);
  const auto meta = require(module.method_meta("forward"), argv[1]);
  const auto sizes = require(meta.input_tensor_meta(0), argv[1]).sizes();
  const std::vector<executorch::aten::SizesType> shape(sizes.begin(), sizes.end());
  size_t count = 1;
  for (const auto size : shape) count *= size;
  std::vector<float> values = read(argv[2], count);
  const auto input = executorch::extension::from_blob(values.data(), shape);

  require(module.forward(input), "warming up");
  syscall(kBegin);
  auto outputs = module.forward(input);
  syscall(kEnd);
  const auto output = require(std::move(outputs), "running")[0].toTensor();

  std::ofstream file(argv[3], std::ios::binary);
  file.write(static_cast<const char*>(output.const_data_ptr()), output.nbytes());
  if (!file) fail(std::string("cannot write ") + argv[3]);
  return 0;
}
