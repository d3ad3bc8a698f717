// What a runner's exit status says, and the one line on stderr that goes with it.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include <executorch/runtime/core/error.h>

enum Status {
  kBadArguments = 2,  // options, a plan that does not parse, an input that cannot be read
  kCannotLoad = 3,
  kNoSuchMethod = 4,
  kWrongInput = 5,  // number, dtype or size of what a method is given
  kFailed = 6,
  kOutOfMemory = 7,
  kCannotWrite = 8,
};

// Threads of a pool may be waiting: no destructors are run.
[[noreturn]] inline void fail(Status status, const std::string& why) {
  std::fprintf(stderr, "runner: %s\n", why.c_str());
  std::fflush(stderr);
  std::_Exit(status);
}

inline void require(executorch::runtime::Error error, Status status, const std::string& what) {
  using executorch::runtime::Error;
  if (error == Error::Ok) return;
  const bool memory = error == Error::MemoryAllocationFailed || error == Error::DelegateMemoryAllocationFailed ||
                      error == Error::OutOfResources;
  const std::string code = "error " + std::to_string(static_cast<unsigned>(error));
  if (memory) fail(kOutOfMemory, what + ": not enough memory, " + code);
  fail(status, what + ": " + code);
}
