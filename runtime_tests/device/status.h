// What a runner's exit status says, and the one line on stderr that goes with it.

#pragma once

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <unistd.h>

#include <executorch/runtime/core/error.h>
#include <executorch/runtime/platform/platform.h>

enum Status {
  kBadArguments = 2,  // options, a plan that does not parse, an input that cannot be read
  kCannotLoad = 3,
  kNoSuchMethod = 4,
  kWrongInput = 5,  // number, dtype or size of what a method is given
  kFailed = 6,
  kOutOfMemory = 7,
  kCannotWrite = 8,
  kBroken = 9,  // the runtime itself crashed, which takes a damaged program
};

// Threads of a pool may be waiting: no destructors are run.
[[noreturn]] inline void fail(Status status, const std::string& why) {
  std::string line = why;
  for (char& c : line)
    if (static_cast<unsigned char>(c) < ' ') c = '?';  // of a name in a damaged program
  std::fprintf(stderr, "runner: %s\n", line.c_str());
  std::fflush(stderr);
  std::_Exit(status);
}

// Nothing verifies what a program holds for its delegates, so damage there can crash the runtime. Only what is safe in
// a signal handler is called, on a stack of its own.
inline void keep_signals() {
  static char stack[1 << 16];
  stack_t own = {};
  own.ss_sp = stack;
  own.ss_size = sizeof(stack);
  sigaltstack(&own, nullptr);
  struct sigaction action = {};
  action.sa_flags = SA_ONSTACK;
  action.sa_handler = [](int) {
    static const char line[] = "runner: the runtime crashed: the program is damaged\n";
    if (::write(STDERR_FILENO, line, sizeof(line) - 1) < 0) _exit(kBroken);
    _exit(kBroken);
  };
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigaction(signal, &action, nullptr);
}

// The first error that the runtime logged, its reason; backends tell of memory nowhere else.
inline std::string& logged() {
  static std::string message;
  return message;
}

inline void keep_log() {
  const auto keep = [](et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                       size_t length) {
    if (level == kFatal) std::fprintf(stderr, "%.*s\n", static_cast<int>(length), message);
    if (level == kError && logged().empty()) logged().assign(message, length);
  };
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
}

inline void require(executorch::runtime::Error error, Status status, const std::string& what) {
  using executorch::runtime::Error;
  if (error == Error::Ok) return;
  const bool memory = error == Error::MemoryAllocationFailed || error == Error::DelegateMemoryAllocationFailed ||
                      error == Error::OutOfResources || logged().find("out_of_memory") != std::string::npos ||
                      logged().find("bad_alloc") != std::string::npos;
  const std::string code = "error " + std::to_string(static_cast<unsigned>(error));
  fail(memory ? kOutOfMemory : status,
       what + ": " + (memory ? "not enough memory, " : "") + code + (logged().empty() ? "" : ", " + logged()));
}
