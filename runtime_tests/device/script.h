// A picture's script: what a bundle's manifest says of it, as lines of fields between tabs, in order of execution.
//
//     tensor NAME DTYPE SIZE,... FILE                        a constant, from its raw bytes
//     call PROGRAM METHOD INPUTS INPUT... OUTPUT...          INPUTS: how many of the names are inputs
//     unload PROGRAM METHOD                                  a method that is not called again; its memory is given back
//     close PROGRAM                                          the same of a whole program
//     forget NAME...                                         tensors that are not read again
//     noise SEED SCALE                                       of the next `sample`
//     known LATENTS SCALE NOISE_SCALE [MASK]                 the same: what it begins with, and where that is drawn anew
//     step TIMESTEP INPUT_SCALE A SCALE NOISE_SCALE COUNT T... COUNT N... COUNT C...
//                                                            the same, one line a step, see `Step` in plans.py; the two
//                                                            scales are those of known latents after it
//     sample PROGRAM METHOD SIZE,... LATENTS COUNT TEXT... NEGATIVE...    the loop of pipelines/sampling.py: latents of
//                                                            these sizes, and tensors of the two conditionings
//     write NAME FILE                                        raw bytes
//
// Files are relative to the script. Numbers are what strtof reads; Python's float.hex() loses nothing.

#pragma once

#include <climits>
#include <functional>
#include <sstream>

#include "noise.h"
#include "program.h"

struct Step {
  float timestep, input_scale, a;
  float known[2];  // scales of known latents and of the first noise, after the step
  std::vector<float> text, negative, noise;  // by steps back
};

class Script {
 public:
  struct Timed {
    std::string what;
    double milliseconds;
  };

  Script(std::string path, Loading loading) : path_(std::move(path)), loading_(std::move(loading)) {}

  // Calls of methods with their times, loads among them.
  std::vector<Timed> execute() {
    static const std::map<std::string, std::pair<size_t, void (Script::*)()>> kinds = {
        {"tensor", {5, &Script::tensor}}, {"call", {4, &Script::call}},     {"unload", {3, &Script::unload}},
        {"close", {2, &Script::close}},   {"forget", {2, &Script::forget}}, {"noise", {3, &Script::noise}},
        {"known", {4, &Script::known}},   {"step", {9, &Script::step}},     {"sample", {6, &Script::sample}},
        {"write", {3, &Script::write}},
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

  std::vector<executorch::aten::SizesType> sizes(const std::string& text) const {
    std::vector<executorch::aten::SizesType> shape;
    std::istringstream parts(text);
    for (std::string size; std::getline(parts, size, ',');) shape.push_back(whole(size));
    return shape;
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
    tensor.shape = sizes(fields_[3]);
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

  void unload() {
    const auto found = programs_.find(fields_[1]);
    if (found != programs_.end()) found->second->unload(fields_[2]);
  }
  void close() { programs_.erase(fields_[1]); }
  void forget() {
    for (size_t i = 1; i < fields_.size(); ++i) tensors_.erase(fields_[i]);
  }

  void noise() {
    char* end = nullptr;
    seed_ = std::strtoull(fields_[1].c_str(), &end, 10);
    if (fields_[1].empty() || *end) mistake(fields_[1] + " is no seed");
    noise_scale_ = number(2);
  }

  void known() {
    known_ = {&named(fields_[1]), {number(2), number(3)}, fields_.size() > 4 ? &named(fields_[4]) : nullptr};
  }

  // A list of coefficients that begins with its length, from `field` on, which ends behind it.
  std::vector<float> list(size_t& field) const {
    if (field >= fields_.size()) mistake("too few fields");
    const size_t count = whole(fields_[field++]);
    if (fields_.size() < field + count) mistake("too few fields");
    std::vector<float> values;
    for (size_t i = 0; i < count; ++i) values.push_back(number(field++));
    return values;
  }

  void step() {
    size_t field = 6;
    Step step{number(1), number(2), number(3), {number(4), number(5)}, {}, {}, {}};
    step.text = list(field);
    step.negative = list(field);
    step.noise = list(field);
    steps_.push_back(std::move(step));
  }

  // Whether step `first` or a later one takes what was predicted in step k.
  bool is_used(std::vector<float> Step::*coefficients, size_t k, size_t first) const {
    for (size_t i = first; i < steps_.size(); ++i) {
      const auto& row = steps_[i].*coefficients;
      if (i - k < row.size() && row[i - k] != 0) return true;
    }
    return false;
  }

  // Every product and sum is rounded by itself: compile with -ffp-contract=off.
  static void add(std::vector<float>& x, float coefficient, const float* values) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += coefficient * values[i];
  }

  // Known latents as noisy as these scales make them, of a tensor of their size.
  std::vector<float> noised(const float scales[2], const std::vector<float>& noise) {
    if (known_.latents->count() != noise.size()) mistake("known latents of another size");
    std::vector<float> x(known_.latents->floats(), known_.latents->floats() + noise.size());
    for (float& value : x) value *= scales[0];
    add(x, scales[1], noise.data());
    return x;
  }

  // Keeps what is known where the mask of a latent's place, the same for every channel, is 0.
  void keep(std::vector<float>& x, const std::vector<float>& kept) {
    const size_t places = known_.mask->count();
    if (!places || x.size() % places) mistake("a mask of another size");
    for (size_t i = 0; i < x.size(); ++i) {
      const float mask = known_.mask->floats()[i % places];
      const float outside = (1 - mask) * kept[i];
      x[i] = outside + mask * x[i];
    }
  }

  void sample() {
    struct Side {
      std::vector<float> Step::*coefficients;
      std::vector<Tensor*> conditioning;
      std::map<size_t, Tensor> predictions;  // by step
    };
    Program& denoiser = program(1);
    Tensor given{ScalarType::Float, sizes(fields_[3]), {}};
    size_t bytes;
    if (!given.bytes_of(sizeof(float), bytes)) mistake(fields_[3] + " is no size");
    given.bytes.resize(bytes);
    Side sides[2] = {{&Step::text, {}, {}}, {&Step::negative, {}, {}}};
    const size_t count = whole(fields_[5]);
    for (size_t i = 6; i < fields_.size(); ++i) sides[i - 6 >= count].conditioning.push_back(&named(fields_[i]));
    Tensor timestep{ScalarType::Float, {1}, std::vector<char>(sizeof(float))};
    const std::vector<float> first = noise::normal(seed_, 0, given.count());
    std::vector<float> x = first;
    for (float& value : x) value *= noise_scale_;
    if (known_.latents) x = noised(known_.scales, first);

    for (size_t k = 0; k < steps_.size(); ++k) {
      const Step& step = steps_[k];
      for (size_t i = 0; i < x.size(); ++i) given.floats()[i] = step.input_scale * x[i];
      *timestep.floats() = step.timestep;
      for (Side& side : sides) {
        if (!is_used(side.coefficients, k, k)) continue;
        std::vector<Tensor*> arguments = {&given, &timestep};
        arguments.insert(arguments.end(), side.conditioning.begin(), side.conditioning.end());
        auto outputs = timed(denoiser, fields_[2], arguments);
        if (outputs.size() != 1 || outputs[0].bytes.size() != given.bytes.size())
          mistake(fields_[2] + " gives no prediction of the latents");
        side.predictions[k] = std::move(outputs[0]);
      }
      for (float& value : x) value *= step.a;
      for (Side& side : sides) {
        const auto& coefficients = step.*side.coefficients;
        for (size_t j = 0; j < coefficients.size(); ++j)
          if (coefficients[j] != 0) {
            if (j > k) mistake("a step looks further back than there are predictions");
            add(x, coefficients[j], side.predictions[k - j].floats());
          }
        while (!side.predictions.empty() && !is_used(side.coefficients, side.predictions.begin()->first, k + 1))
          side.predictions.erase(side.predictions.begin());
      }
      for (size_t j = 0; j < step.noise.size(); ++j)
        if (step.noise[j] != 0) {
          if (j > k) mistake("a step looks further back than there is noise");
          add(x, step.noise[j], noise::normal(seed_, k + 1 - j, x.size()).data());
        }
      if (known_.mask) keep(x, noised(step.known, first));
    }
    steps_.clear();
    known_ = {};
    std::copy(x.begin(), x.end(), given.floats());
    tensors_[fields_[4]] = std::move(given);
  }

  void write() { ::write(beside(fields_[2]), named(fields_[1])); }

  std::string path_;
  Loading loading_;
  size_t number_ = 0;
  std::vector<std::string> fields_;
  std::map<std::string, std::unique_ptr<Program>> programs_;
  std::map<std::string, Tensor> tensors_;
  std::vector<Step> steps_;
  struct {
    Tensor* latents = nullptr;
    float scales[2] = {};
    Tensor* mask = nullptr;
  } known_;
  float noise_scale_ = 1;
  uint64_t seed_ = 0;
  std::vector<Timed> timed_;
};
