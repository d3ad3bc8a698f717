// A picture's plan: what a bundle's manifest says of one prompt, as lines of fields between tabs, in order of execution.
//
//     tensor NAME DTYPE SIZE,... FILE                        a constant, from its raw bytes
//     call PROGRAM METHOD INPUTS INPUT... OUTPUT...          INPUTS: how many of the names are inputs
//     noise_scale NUMBER, guidance NUMBER                    of the next `sample`
//     step TIMESTEP INPUT_SCALE A B0 B1 ...                  the same, one line a step
//     sample PROGRAM METHOD NOISE LATENTS CONDITIONING...    the loop of edge_hadanorm/sampling.py, NOISE [1, C, H, W]
//     write NAME FILE                                        raw bytes
//
// Files are relative to the plan. Numbers are what strtof reads; Python's float.hex() loses nothing.

#pragma once

#include <climits>
#include <deque>
#include <functional>
#include <sstream>

#include "program.h"

struct Step {
  float timestep, input_scale, a;
  std::vector<float> b;
};

class Plan {
 public:
  struct Timed {
    std::string what;
    double milliseconds;
  };

  Plan(std::string path, Loading loading) : path_(std::move(path)), loading_(std::move(loading)) {}

  // Calls of methods with their times, loads among them.
  std::vector<Timed> execute() {
    static const std::map<std::string, std::pair<size_t, void (Plan::*)()>> kinds = {
        {"tensor", {5, &Plan::tensor}}, {"call", {4, &Plan::call}},         {"noise_scale", {2, &Plan::noise_scale}},
        {"step", {5, &Plan::step}},     {"guidance", {2, &Plan::guidance}}, {"sample", {5, &Plan::sample}},
        {"write", {3, &Plan::write}},
    };
    std::ifstream file(path_);
    if (!file) fail(kBadArguments, path_ + " cannot be read");
    std::string line;
    for (number_ = 1; std::getline(file, line); ++number_) {
      fields_.clear();
      std::istringstream parts(line);
      for (std::string part; std::getline(parts, part, '\t');) fields_.push_back(part);
      const auto kind = kinds.find(fields_.empty() ? "" : fields_[0]);
      if (kind == kinds.end()) mistake("no known line");
      if (fields_.size() < kind->second.first) mistake("too few fields");
      (this->*kind->second.second)();
    }
    return timed_;
  }

 private:
  [[noreturn]] void mistake(const std::string& why) const {
    fail(kBadArguments, path_ + " line " + std::to_string(number_) + ": " + why);
  }

  std::string beside(const std::string& file) const {
    const auto slash = path_.rfind('/');
    return file[0] == '/' || slash == std::string::npos ? file : path_.substr(0, slash + 1) + file;
  }

  int whole(const std::string& text) const {
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end || value < 0 || value > INT_MAX) mistake(text + " is no size");
    return static_cast<int>(value);
  }

  float number(size_t field) const {
    char* end = nullptr;
    const float value = std::strtof(fields_[field].c_str(), &end);
    if (fields_[field].empty() || *end) mistake(fields_[field] + " is no number");
    return value;
  }

  Tensor& named(const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) mistake("no tensor is called " + name);
    return found->second;
  }

  Program& program(size_t field) {
    auto& kept = programs_[fields_[field]];
    if (!kept) kept = std::make_unique<Program>(beside(fields_[field]), loading_);
    timed_.push_back({"load " + fields_[field] + " " + fields_[field + 1], kept->load(fields_[field + 1])});
    return *kept;
  }

  std::vector<Tensor> timed(Program& program, const std::string& method, const std::vector<Tensor*>& given) {
    const Stopwatch watch;
    auto outputs = program.call(method, given);
    timed_.push_back({method, watch.milliseconds()});
    return outputs;
  }

  void tensor() {
    static const std::map<std::string, std::pair<ScalarType, size_t>> dtypes = {
        {"float32", {ScalarType::Float, 4}}, {"int64", {ScalarType::Long, 8}}};
    const auto dtype = dtypes.find(fields_[2]);
    if (dtype == dtypes.end()) mistake("no dtype " + fields_[2]);
    Tensor tensor{dtype->second.first, {}, {}};
    std::istringstream sizes(fields_[3]);
    for (std::string size; std::getline(sizes, size, ',');) tensor.shape.push_back(whole(size));
    size_t bytes;
    if (!tensor.bytes_of(dtype->second.second, bytes)) mistake(fields_[3] + " is no size");
    read(beside(fields_[4]), tensor, bytes);
    tensors_[fields_[1]] = std::move(tensor);
  }

  void call() {
    const size_t inputs = whole(fields_[3]);
    if (fields_.size() < 4 + inputs) mistake("too few fields");
    std::vector<Tensor*> given;
    for (size_t i = 0; i < inputs; ++i) given.push_back(&named(fields_[4 + i]));
    auto outputs = timed(program(1), fields_[2], given);
    if (fields_.size() != 4 + inputs + outputs.size())
      mistake(fields_[2] + " gives " + std::to_string(outputs.size()) + " tensors");
    for (size_t i = 0; i < outputs.size(); ++i) tensors_[fields_[4 + inputs + i]] = std::move(outputs[i]);
  }

  void noise_scale() { noise_scale_ = number(1); }
  void guidance() { guidance_ = number(1); }
  void step() {
    Step step{number(1), number(2), number(3), {}};
    for (size_t i = 4; i < fields_.size(); ++i) step.b.push_back(number(i));
    steps_.push_back(step);
  }

  // Every product and sum is rounded by itself: compile with -ffp-contract=off.
  void sample() {
    Program& denoiser = program(1);
    Tensor latents = named(fields_[3]);
    const size_t n = latents.count();
    if (latents.dtype != ScalarType::Float || latents.shape.size() != 4 || latents.shape[0] != 1)
      mistake(fields_[3] + " is no noise [1, C, H, W]");
    float* x = latents.floats();
    for (size_t i = 0; i < n; ++i) x[i] *= noise_scale_;
    Tensor both{ScalarType::Float, latents.shape, std::vector<char>(2 * latents.bytes.size())};
    both.shape[0] = 2;
    Tensor timestep{ScalarType::Float, {1}, std::vector<char>(sizeof(float))};
    std::vector<Tensor*> given = {&both, &timestep};
    for (size_t i = 5; i < fields_.size(); ++i) given.push_back(&named(fields_[i]));

    std::deque<std::vector<float>> history;
    for (const Step& step : steps_) {
      for (size_t i = 0; i < n; ++i) both.floats()[i] = both.floats()[n + i] = step.input_scale * x[i];
      *timestep.floats() = step.timestep;
      auto outputs = timed(denoiser, fields_[2], given);
      if (outputs.size() != 1 || outputs[0].bytes.size() != both.bytes.size())
        mistake(fields_[2] + " gives no prediction of both rows");
      const float *without = outputs[0].floats(), *with = without + n;
      std::vector<float> guided(with, with + n);
      if (guidance_ != 1)
        for (size_t i = 0; i < n; ++i) guided[i] = without[i] + guidance_ * (with[i] - without[i]);
      history.push_front(std::move(guided));
      if (step.b.size() > history.size()) mistake("a step looks further back than there are predictions");
      for (size_t i = 0; i < n; ++i) x[i] *= step.a;
      for (size_t j = 0; j < step.b.size(); ++j)
        for (size_t i = 0; i < n; ++i) x[i] += step.b[j] * history[j][i];
    }
    steps_.clear();
    tensors_[fields_[4]] = std::move(latents);
  }

  void write() { ::write(beside(fields_[2]), named(fields_[1])); }

  std::string path_;
  Loading loading_;
  size_t number_ = 0;
  std::vector<std::string> fields_;
  std::map<std::string, std::unique_ptr<Program>> programs_;
  std::map<std::string, Tensor> tensors_;
  std::vector<Step> steps_;
  float noise_scale_ = 1, guidance_ = 1;
  std::vector<Timed> timed_;
};
