// The natives of org.pytorch.executorch.Module for a desktop JVM, over the libraries of ExecuTorch's Python wheel.
//
// On a phone, libexecutorch.so of the AAR has them. As there, an output's buffer is the program's own memory, which is
// valid until the method is called again or the module is closed; tensors are checked as there; errors are thrown with
// the same codes and words by ExecutorchRuntimeException.makeExecutorchException. ModuleTest.java holds that together.

#include <jni.h>

#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>

// ExecuTorch's wheel exports these and does not ship their header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

constexpr jint kTensor = 1;  // EValue.TYPE_CODE_TENSOR

// DType.jniCode of the types that a bundle's tensors have.
struct Dtype {
  jint code;
  ScalarType type;
};
constexpr std::array<Dtype, 7> kDtypes = {{{0, ScalarType::Byte},
                                           {1, ScalarType::Char},
                                           {3, ScalarType::Int},
                                           {4, ScalarType::Long},
                                           {5, ScalarType::Half},
                                           {6, ScalarType::Float},
                                           {7, ScalarType::Double}}};

// The last lines that the runtime logged; an exception's message has them, as on a phone.
class Log {
 public:
  void add(const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    lines_.push_back(line);
    if (lines_.size() > kLines) lines_.pop_front();
  }
  std::vector<std::string> lines() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {lines_.begin(), lines_.end()};
  }

 private:
  static constexpr size_t kLines = 100;
  std::mutex mutex_;
  std::deque<std::string> lines_;
};

Log& logged() {
  static Log log;
  return log;
}

void keep(et_timestamp_t time, et_pal_log_level_t level, const char* file, const char* function, size_t line,
          const char* message, size_t length) {
  std::ostringstream text;
  text << "[" << time << " " << function << " " << file << ":" << line << "] " << static_cast<char>(level) << " "
       << std::string(message, length);
  logged().add(text.str());
}

// A Java exception is pending: what was being done is given up.
struct Thrown {};

// The calls that are made here of JNI, each of which throws Thrown where Java threw.
class Java {
 public:
  explicit Java(JNIEnv* env) : env(env) {}

  jclass type(const char* name) const { return checked(env->FindClass(name)); }
  jmethodID method(jclass type, const char* name, const char* signature) const {
    return checked(env->GetMethodID(type, name, signature));
  }
  jmethodID static_method(jclass type, const char* name, const char* signature) const {
    return checked(env->GetStaticMethodID(type, name, signature));
  }
  jfieldID field(jclass type, const char* name, const char* signature) const {
    return checked(env->GetFieldID(type, name, signature));
  }

  template <typename T>
  T checked(T value) const {
    if (env->ExceptionCheck()) throw Thrown();
    return value;
  }

  std::string text(jstring string) const {
    const char* chars = checked(env->GetStringUTFChars(string, nullptr));
    std::string copy(chars);
    env->ReleaseStringUTFChars(string, chars);
    return copy;
  }

  jobjectArray strings(const std::vector<std::string>& all) const {
    jobjectArray array = checked(env->NewObjectArray(all.size(), type("java/lang/String"), nullptr));
    for (size_t i = 0; i < all.size(); ++i) {
      env->SetObjectArrayElement(array, i, checked(env->NewStringUTF(all[i].c_str())));
      checked(0);
    }
    return array;
  }

  [[noreturn]] void fail(Error code, const std::string& why) const {
    const jclass thrown = type("org/pytorch/executorch/ExecutorchRuntimeException");
    const auto make =
        static_method(thrown, "makeExecutorchException", "(ILjava/lang/String;)Ljava/lang/RuntimeException;");
    const auto message = checked(env->NewStringUTF(why.c_str()));
    env->Throw(static_cast<jthrowable>(
        checked(env->CallStaticObjectMethod(thrown, make, static_cast<jint>(code), message))));
    throw Thrown();
  }

  JNIEnv* const env;
};

// The local references made while it lives are given back at its end.
class Frame {
 public:
  explicit Frame(const Java& java) : env_(java.env) {
    if (env_->PushLocalFrame(kReferences)) throw Thrown();
  }
  ~Frame() {
    if (env_) env_->PopLocalFrame(nullptr);
  }
  Frame(const Frame&) = delete;

  // One of them that is kept.
  jobject keep(jobject object) { return std::exchange(env_, nullptr)->PopLocalFrame(object); }

 private:
  static constexpr jint kReferences = 16;
  JNIEnv* env_;
};

std::string native_error(Error code) {
  std::ostringstream text;
  text << " [Native Error: 0x" << std::hex << std::uppercase << static_cast<uint32_t>(code) << "]";
  return text.str();
}

Module& module_of(const Java& java, jobject self) {
  const auto type = java.checked(java.env->GetObjectClass(self));
  const auto data = java.env->GetObjectField(self, java.field(type, "mHybridData", "Lcom/facebook/jni/HybridData;"));
  const auto holder = java.type("com/facebook/jni/HybridData");
  return *reinterpret_cast<Module*>(java.env->GetLongField(data, java.field(holder, "pointer", "J")));
}

// A tensor over the direct buffer of that of a Java EValue.
TensorPtr from_java(const Java& java, jobject value) {
  const Frame frame(java);
  const auto values = java.type("org/pytorch/executorch/EValue");
  if (java.env->GetIntField(value, java.field(values, "mTypeCode", "I")) != kTensor)
    java.fail(Error::NotSupported, "An input is no tensor");
  const auto to_tensor = java.method(values, "toTensor", "()Lorg/pytorch/executorch/Tensor;");
  const auto tensor = java.checked(java.env->CallObjectMethod(value, to_tensor));
  const auto type = java.type("org/pytorch/executorch/Tensor");
  const auto code = java.checked(java.env->CallIntMethod(tensor, java.method(type, "dtypeJniCode", "()I")));
  const auto shape = static_cast<jlongArray>(java.env->GetObjectField(tensor, java.field(type, "shape", "[J")));
  const auto get = java.method(type, "getRawDataBuffer", "()Ljava/nio/Buffer;");
  const auto buffer = java.checked(java.env->CallObjectMethod(tensor, get));
  std::vector<jlong> sizes(java.env->GetArrayLength(shape));
  java.env->GetLongArrayRegion(shape, 0, sizes.size(), sizes.data());
  jlong count = 1;
  for (const auto size : sizes) count *= size;
  const jlong capacity = java.env->GetDirectBufferCapacity(buffer);
  if (capacity != count)
    java.fail(Error::InvalidArgument, "Tensor dimensions(elements number: " + std::to_string(count) +
                                          "inconsistent with buffer capacity " + std::to_string(capacity) + "]");
  for (const auto& dtype : kDtypes)
    if (dtype.code == code)
      return executorch::extension::from_blob(java.env->GetDirectBufferAddress(buffer),
                                              std::vector<SizesType>(sizes.begin(), sizes.end()), dtype.type);
  java.fail(Error::InvalidArgument, "Unknown Tensor jdtype: [" + std::to_string(code) + "]");
}

// A Java EValue of a tensor over the memory of an output.
jobject to_java(const Java& java, const EValue& value) {
  if (!value.isTensor()) java.fail(Error::NotSupported, "An output is no tensor");
  const auto tensor = value.toTensor();
  Frame frame(java);
  const std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
  const auto shape = java.checked(java.env->NewLongArray(sizes.size()));
  java.env->SetLongArrayRegion(shape, 0, sizes.size(), sizes.data());
  jobject buffer = java.checked(java.env->NewDirectByteBuffer(tensor.mutable_data_ptr(), tensor.nbytes()));
  const auto buffers = java.type("java/nio/ByteBuffer"), orders = java.type("java/nio/ByteOrder");
  const auto native = java.checked(java.env->CallStaticObjectMethod(
      orders, java.static_method(orders, "nativeOrder", "()Ljava/nio/ByteOrder;")));
  const auto set = java.method(buffers, "order", "(Ljava/nio/ByteOrder;)Ljava/nio/ByteBuffer;");
  buffer = java.checked(java.env->CallObjectMethod(buffer, set, native));
  const auto type = java.type("org/pytorch/executorch/Tensor");
  const auto make = java.static_method(type, "nativeNewTensor",
                                       "(Ljava/nio/ByteBuffer;[JILcom/facebook/jni/HybridData;)"
                                       "Lorg/pytorch/executorch/Tensor;");
  const auto values = java.type("org/pytorch/executorch/EValue");
  const auto wrap =
      java.static_method(values, "from", "(Lorg/pytorch/executorch/Tensor;)Lorg/pytorch/executorch/EValue;");
  for (const auto& dtype : kDtypes) {
    if (dtype.type != tensor.scalar_type()) continue;
    const auto made = java.checked(java.env->CallStaticObjectMethod(type, make, buffer, shape, dtype.code, nullptr));
    return frame.keep(java.checked(java.env->CallStaticObjectMethod(values, wrap, made)));
  }
  java.fail(Error::InvalidArgument, std::string(executorch::runtime::toString(tensor.scalar_type())) +
                                        " is not supported on java side");
}

jobjectArray execute(const Java& java, Module& module, const std::string& method, jobjectArray inputs) {
  std::vector<TensorPtr> tensors;
  std::vector<EValue> values;
  for (jsize i = 0; i < java.env->GetArrayLength(inputs); ++i) {
    const auto value = java.checked(java.env->GetObjectArrayElement(inputs, i));
    tensors.push_back(from_java(java, value));
    values.emplace_back(tensors.back());
    java.env->DeleteLocalRef(value);
  }
  auto results = module.execute(method, values);
  if (!results.ok()) java.fail(results.error(), "Execution failed for method: " + method);
  const auto type = java.type("org/pytorch/executorch/EValue");
  const auto outputs = java.checked(java.env->NewObjectArray(results->size(), type, nullptr));
  for (size_t i = 0; i < results->size(); ++i) {
    const auto value = to_java(java, results->at(i));
    java.env->SetObjectArrayElement(outputs, i, java.checked(value));
    java.env->DeleteLocalRef(value);
  }
  return outputs;
}

// What `body` gives of Java; null where Java threw.
template <typename Body>
auto guarded(JNIEnv* env, const Body& body) -> decltype(body(Java(env))) {
  try {
    return body(Java(env));
  } catch (const Thrown&) {
    return {};
  }
}

}  // namespace

extern "C" {

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM*, void*) {
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
  return JNI_VERSION_1_8;
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_readLogBufferStaticNative(JNIEnv* env, jclass) {
  return guarded(env, [](const Java& java) { return java.strings(logged().lines()); });
}

JNIEXPORT jobject JNICALL Java_org_pytorch_executorch_Module_initHybrid(JNIEnv* env, jclass, jstring path, jint mode,
                                                                        jint threads) {
  return guarded(env, [=](const Java& java) {
    constexpr std::array<Module::LoadMode, 4> modes = {Module::LoadMode::File, Module::LoadMode::Mmap,
                                                       Module::LoadMode::MmapUseMlock,
                                                       Module::LoadMode::MmapUseMlockIgnoreErrors};
    auto module = std::make_unique<Module>(java.text(path), modes.at(mode));
    if (threads) executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads);
    const auto type = java.type("com/facebook/jni/HybridData");
    const auto pointer = reinterpret_cast<jlong>(module.get());
    const auto data = java.checked(java.env->NewObject(type, java.method(type, "<init>", "(J)V"), pointer));
    module.release();
    return data;
  });
}

JNIEXPORT void JNICALL Java_com_facebook_jni_HybridData_release(JNIEnv*, jclass, jlong pointer) {
  delete reinterpret_cast<Module*>(pointer);
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_executeNative(JNIEnv* env, jobject self, jstring name,
                                                                                jobjectArray inputs) {
  return guarded(env, [=](const Java& java) {
    return execute(java, module_of(java, self), java.text(name), inputs);
  });
}

JNIEXPORT jint JNICALL Java_org_pytorch_executorch_Module_loadMethodNative(JNIEnv* env, jobject self, jstring name) {
  return guarded(env, [=](const Java& java) {
    return static_cast<jint>(module_of(java, self).load_method(java.text(name)));
  });
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_getMethodsNative(JNIEnv* env, jobject self) {
  return guarded(env, [=](const Java& java) {
    const auto names = module_of(java, self).method_names();
    if (!names.ok()) java.fail(Error::InvalidArgument, "Cannot get load module" + native_error(names.error()));
    return java.strings({names->begin(), names->end()});
  });
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_getUsedBackends(JNIEnv* env, jobject self,
                                                                                  jstring name) {
  return guarded(env, [=](const Java& java) {
    const std::string method = java.text(name);
    const auto meta = module_of(java, self).method_meta(method);
    if (!meta.ok()) java.fail(meta.error(), "Cannot get method meta for '" + method + "'" + native_error(meta.error()));
    std::vector<std::string> names;
    for (size_t i = 0; i < meta->num_backends(); ++i) names.emplace_back(meta->get_backend_name(i).get());
    return java.strings(names);
  });
}

}  // extern "C"
