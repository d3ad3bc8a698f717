// Runs ExecuTorch programs without Python.
//
//     runner run PROGRAM METHOD [OPTIONS] INPUT...     a method, its inputs from raw files
//         --output PREFIX    write the outputs to PREFIX.0, PREFIX.1, ...
//         --repeat N         calls (default 1); the last one is between the markers of count_instructions.c
//     runner generate SCRIPT [OPTIONS]                 a picture, see script.h
// Options of both: --threads N (default 1), --load file|mmap (default mmap), --cache FOLDER (none; see program.h).
//
// stdout is one JSON object: {"load_ms", "ms": [of each call], "peak_rss_kib"}, of `generate` {"timed": [[what, ms]],
// "peak_rss_kib"}. Errors are one line on stderr and a status of status.h.
//
// Private memory that loading needs, as RLIMIT_DATA counts it: with mmap once the program (its weights, packed), with
// file twice, with --cache nothing, besides 16 MB and what the method plans for its activations.

#include <new>

#include <unistd.h>

#include "script.h"

// ExecuTorch's wheel exports these and does not ship their header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

// System calls that no kernel has: it answers ENOSYS, and nobody else makes them.
constexpr long kBegin = 9001, kEnd = 9002;

struct Options {
  std::vector<std::string> operands;
  std::string output;
  int repeat = 1;
  int threads = 1;
  Loading loading;
};

int positive(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < 1 || value > 1000) fail(kBadArguments, option + " " + text + ": not from 1 to 1000");
  return static_cast<int>(value);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 2; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      options.operands.push_back(name);
      continue;
    }
    if (++i == argc) fail(kBadArguments, name + " needs a value");
    const std::string value = argv[i];
    if (name == "--output") {
      options.output = value;
    } else if (name == "--cache") {
      options.loading.cache = value;
    } else if (name == "--repeat") {
      options.repeat = positive(name, value);
    } else if (name == "--threads") {
      options.threads = positive(name, value);
    } else if (name == "--load" && (value == "file" || value == "mmap")) {
      options.loading.mode = value == "file" ? Module::LoadMode::File : Module::LoadMode::Mmap;
    } else {
      fail(kBadArguments, "unknown option " + name + " " + value);
    }
  }
  return options;
}

// Of this process since it began; getrusage would count what forked it.
long peak_rss_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::atol(line.c_str() + 6);
  return 0;
}

int run(const Options& options) {
  const auto& operands = options.operands;
  if (operands.size() < 2) fail(kBadArguments, "usage: runner run PROGRAM METHOD [OPTIONS] INPUT...");
  const std::string& method = operands[1];
  Program program(operands[0], options.loading);
  const double load_ms = program.load(method);
  std::vector<Tensor> inputs = program.inputs(method);
  if (operands.size() != 2 + inputs.size())
    fail(kWrongInput, operands[0] + " " + method + " has " + std::to_string(inputs.size()) + " inputs, given are " +
                          std::to_string(operands.size() - 2));
  std::vector<Tensor*> given;
  for (size_t i = 0; i < inputs.size(); ++i) {
    read(operands[2 + i], inputs[i], inputs[i].bytes.size());
    given.push_back(&inputs[i]);
  }
  std::vector<Tensor> outputs;
  std::string times;
  for (int k = 1; k <= options.repeat; ++k) {
    const Stopwatch watch;
    if (k == options.repeat) syscall(kBegin);
    outputs = program.call(method, given);
    if (k == options.repeat) syscall(kEnd);
    times += (k > 1 ? ", " : "") + std::to_string(watch.milliseconds());
  }
  if (!options.output.empty())
    for (size_t i = 0; i < outputs.size(); ++i) write(options.output + "." + std::to_string(i), outputs[i]);
  std::printf("{\"load_ms\": %f, \"ms\": [%s], \"peak_rss_kib\": %ld}\n", load_ms, times.c_str(), peak_rss_kib());
  return 0;
}

int generate(const Options& options) {
  if (options.operands.size() != 1) fail(kBadArguments, "usage: runner generate SCRIPT [OPTIONS]");
  std::string rows;
  for (const auto& [what, ms] : Script(options.operands[0], options.loading).execute())
    rows += (rows.empty() ? "[\"" : ", [\"") + what + "\", " + std::to_string(ms) + "]";
  std::printf("{\"timed\": [%s], \"peak_rss_kib\": %ld}\n", rows.c_str(), peak_rss_kib());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  static const std::map<std::string, int (*)(const Options&)> commands = {{"run", run}, {"generate", generate}};
  const auto command = commands.find(argc > 1 ? argv[1] : "");
  if (command == commands.end()) fail(kBadArguments, "usage: runner run|generate ...");
  const Options options = parse(argc, argv);
  keep_log();
  keep_signals();
  try {
    executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(options.threads);
    return command->second(options);
  } catch (const std::bad_alloc&) {
    fail(kOutOfMemory, "not enough memory");
  } catch (const std::exception& error) {
    fail(kFailed, error.what());
  }
}
