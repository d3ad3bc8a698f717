// A program file and the tensors that its methods take and give, as bytes with a dtype and a shape.

#pragma once

#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>

#include "status.h"

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::runtime::EValue;

struct Tensor {
  ScalarType dtype = ScalarType::Float;
  std::vector<executorch::aten::SizesType> shape;
  std::vector<char> bytes;

  float* floats() { return reinterpret_cast<float*>(bytes.data()); }
  size_t count() const {
    size_t product = 1;
    for (const auto size : shape) product *= size;
    return product;
  }
  // Of elements of so many bytes each; false where no size_t holds it.
  bool bytes_of(size_t element, size_t& product) const {
    product = element;
    for (const auto size : shape)
      if (__builtin_mul_overflow(product, static_cast<size_t>(size), &product)) return false;
    return true;
  }
};

inline std::string described(ScalarType dtype, const std::vector<executorch::aten::SizesType>& shape) {
  std::string text = executorch::runtime::toString(dtype);
  for (const auto size : shape) text += " " + std::to_string(size);
  return text;
}

class Stopwatch {
 public:
  double milliseconds() const { return std::chrono::duration<double, std::milli>(Clock::now() - started_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point started_ = Clock::now();
};

// How a program is loaded. cache: an existing folder where XNNPACK keeps a program's packed weights, in a file that it
// maps, so that they are no private memory, and the next process packs nothing. Empty: packed into memory of its own.
struct Loading {
  Module::LoadMode mode = Module::LoadMode::Mmap;
  std::string cache;
};

class Program {
 public:
  Program(const std::string& path, const Loading& loading) : path_(path), module_(path, loading.mode) {
    if (!std::ifstream(path)) fail(kCannotLoad, path + " cannot be read");
    executorch::runtime::BackendOptions<2> packed;
    executorch::runtime::LoadBackendOptionsMap options;
    if (!loading.cache.empty()) {
      const std::string file = loading.cache + "/" + path.substr(path.rfind('/') + 1) + ".packed";
      if (file.size() >= executorch::runtime::kMaxOptionValueLength) fail(kBadArguments, file + ": too long a path");
      require(packed.set_option("weight_cache_enabled", true), kFailed, file);
      require(packed.set_option("packed_cache_path", file.c_str()), kFailed, file);
      require(options.set_options("XnnpackBackend", packed.view()), kFailed, file);
      packs_into_file_ = true;
    }
    require(module_.load(options, executorch::runtime::Program::Verification::InternalConsistency), kCannotLoad,
            path + " is no program that this runtime loads");
  }

  // Loading a method packs its weights; the time that takes.
  double load(const std::string& method) {
    const auto names = module_.method_names();
    if (!names.ok() || !names->count(method)) fail(kNoSuchMethod, path_ + " has no method " + method);
    const Stopwatch watch;
    if (!module_.is_method_loaded(method)) require(module_.load_method(method), kCannotLoad, path_ + " " + method);
    const double milliseconds = watch.milliseconds();
    for (const auto& other : leaving_)
      if (other != method) module_.unload_method(other);
    leaving_.clear();
    return milliseconds;
  }

  // What a method needs is given back; it can be loaded again. XNNPACK packs into its file as long as nothing of the
  // program was unloaded: with one, and little private memory to give back, the method stays until another is loaded.
  void unload(const std::string& method) {
    if (packs_into_file_)
      leaving_.push_back(method);
    else
      module_.unload_method(method);
  }

  // Of a loaded method: zeros, as it declares its inputs.
  std::vector<Tensor> inputs(const std::string& method) {
    auto meta = module_.method_meta(method);
    require(meta.error(), kCannotLoad, path_ + " " + method);
    std::vector<Tensor> all;
    for (size_t i = 0; i < meta->num_inputs(); ++i) {
      auto info = meta->input_tensor_meta(i);
      require(info.error(), kWrongInput, path_ + " " + method + ": an input is no tensor");
      const auto sizes = info->sizes();
      all.push_back({info->scalar_type(), {sizes.begin(), sizes.end()}, std::vector<char>(info->nbytes())});
    }
    return all;
  }

  std::vector<Tensor> call(const std::string& method, std::vector<Tensor*> given) {
    const std::string name = path_ + " " + method;
    const auto declared = inputs(method);
    if (given.size() != declared.size())
      fail(kWrongInput, name + ": " + std::to_string(given.size()) + " inputs, not " + std::to_string(declared.size()));
    std::vector<executorch::extension::TensorPtr> tensors;
    std::vector<EValue> values;
    for (size_t i = 0; i < given.size(); ++i) {
      Tensor& tensor = *given[i];
      if (tensor.dtype != declared[i].dtype || tensor.shape != declared[i].shape ||
          tensor.bytes.size() != declared[i].bytes.size())
        fail(kWrongInput, name + ": input " + std::to_string(i) + " is " + described(tensor.dtype, tensor.shape) +
                              ", not " + described(declared[i].dtype, declared[i].shape));
      tensors.push_back(executorch::extension::from_blob(tensor.bytes.data(), tensor.shape, tensor.dtype));
      values.emplace_back(tensors.back());
    }
    auto results = module_.execute(method, values);
    require(results.error(), kFailed, name);
    std::vector<Tensor> outputs;
    for (const auto& value : *results) {
      if (!value.isTensor()) fail(kFailed, name + ": an output is no tensor");
      const auto tensor = value.toTensor();
      const auto* data = static_cast<const char*>(tensor.const_data_ptr());
      outputs.push_back({tensor.scalar_type(), {tensor.sizes().begin(), tensor.sizes().end()}, {data, data + tensor.nbytes()}});
    }
    return outputs;
  }

 private:
  std::string path_;
  Module module_;
  bool packs_into_file_ = false;
  std::vector<std::string> leaving_;  // methods to unload
};

// Fills a tensor from a file of exactly so many bytes.
inline void read(const std::string& path, Tensor& tensor, size_t expected) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail(kBadArguments, path + " cannot be read");
  const auto size = static_cast<size_t>(file.tellg());
  if (size != expected)
    fail(kWrongInput, path + " has " + std::to_string(size) + " bytes, not " + std::to_string(expected) +
                          " (" + described(tensor.dtype, tensor.shape) + ")");
  tensor.bytes.resize(size);
  file.seekg(0);
  if (!file.read(tensor.bytes.data(), size)) fail(kBadArguments, path + " cannot be read");
}

inline void write(const std::string& path, const Tensor& tensor) {
  std::ofstream file(path, std::ios::binary);
  file.write(tensor.bytes.data(), tensor.bytes.size());
  if (!file.flush()) fail(kCannotWrite, path + " cannot be written");
}
