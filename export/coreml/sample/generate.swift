// Draws a prompt with a bundle of `edge-hadanorm export --target coreml`, on a Mac:
//
//     edge-hadanorm export checkpoint --target coreml --prompts-embedded prompts.txt --out bundle
//     swiftc -O -parse-as-library generate.swift && ./generate bundle "red apple" 7 apple.png
//
// NEVER COMPILED AND NEVER RUN SO FAR: it was written without a Mac, after edge_hadanorm/bundle/README.md (the manifest,
// plans and the loop) and edge_hadanorm/pipelines/noise.py (the noise), which are the definitions.
//
// Prompts are those that the bundle carries encoded, or names of classes. An app with any prompts calls `encode` of the
// text encoders as `prepare` is called here, with ids that a reader of the bundle's tokenizer.json makes.
// Packages of iOS 17 need macOS 14; those with 4-bit weights or groups have several functions, which need macOS 15.

import CoreGraphics
import CoreML
import Foundation
import ImageIO
import UniformTypeIdentifiers

struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

// The manifest, as far as it is read here.

struct Manifest: Decodable {
    struct Tensor: Decodable { let name, feature: String; let shape: [Int] }
    struct Method: Decodable { let package, function: String; let inputs, outputs: [Tensor] }
    struct Program: Decodable { let methods: [String: Method] }
    struct Embedded: Decodable { let file: String; let prompts, negatives: [String] }
    struct Prompt: Decodable { let labels: [String: Int]?; let embedded: Embedded? }
    struct Row: Decodable {
        let timestep, input_scale, a: Double
        let b, b_text, b_negative, c: [Double]?
    }
    struct Plan: Decodable { let noise_scale: Double; let rows: [Row] }
    struct Sampling: Decodable { let plan: String; let guidance: Double; let negative: String; let plans: [String: Plan] }
    struct Latents: Decodable { let shape: [Int] }

    let target: String
    let latents: Latents
    let programs: [String: Program]
    let prompt: Prompt?
    let sampling: Sampling?
}

// Tensors.

typealias Tensors = [String: MLMultiArray]

func tensor(_ scalars: [Float], _ shape: [Int]) -> MLMultiArray {
    MLMultiArray(MLShapedArray<Float>(scalars: scalars, shape: shape))
}

func floats(_ array: MLMultiArray) -> [Float] {
    Array(MLShapedArray<Float>(converting: array).scalars)
}

/// Of each tensor [n, ...] in a safetensors file one row, as [1, ...].
func tensors(of row: Int, in file: URL) throws -> Tensors {
    let data = try Data(contentsOf: file)
    let start = 8 + data.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
    guard let header = try JSONSerialization.jsonObject(with: data.subdata(in: 8..<start)) as? [String: [String: Any]]
    else { throw Failure("\(file.path) is no safetensors file") }
    var found = Tensors()
    for (name, entry) in header where name != "__metadata__" {
        guard let shape = entry["shape"] as? [Int], let ends = entry["data_offsets"] as? [Int] else { continue }
        let size = (ends[1] - ends[0]) / shape[0], rest = Array(shape.dropFirst())
        let own = data.subdata(in: start + ends[0] + row * size..<start + ends[0] + (row + 1) * size)
        found[name] = try own.withUnsafeBytes { bytes -> MLMultiArray in
            switch entry["dtype"] as? String {
            case "F32":
                let values = stride(from: 0, to: bytes.count, by: 4).map {
                    bytes.loadUnaligned(fromByteOffset: $0, as: Float.self)
                }
                return tensor(values, [1] + rest)
            case "I64":
                let values = stride(from: 0, to: bytes.count, by: 8).map {
                    Int32(bytes.loadUnaligned(fromByteOffset: $0, as: Int64.self))
                }
                return MLMultiArray(MLShapedArray<Int32>(scalars: values, shape: [1] + rest))
            default: throw Failure("\(file.path): \(name) is neither float32 nor int64")
            }
        }
    }
    return found
}

// Programs.

/// A method of a program, called with tensors by their names in the manifest.
struct Program {
    let method: Manifest.Method
    let model: MLModel

    init(_ manifest: Manifest, _ role: String, _ name: String, in bundle: URL) async throws {
        guard let method = manifest.programs[role]?.methods[name] else { throw Failure("no \(role).\(name)") }
        let configuration = MLModelConfiguration()
        if method.function != "main" {
            guard #available(macOS 15, iOS 18, *) else { throw Failure("\(method.package) needs macOS 15 or iOS 18") }
            configuration.functionName = method.function
        }
        let compiled = try await MLModel.compileModel(at: bundle.appendingPathComponent(method.package))
        self.method = method
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
    }

    func callAsFunction(_ given: Tensors) throws -> Tensors {
        var features: [String: MLFeatureValue] = [:]
        // A program has no input for what it does not read.
        for input in method.inputs where model.modelDescription.inputDescriptionsByName[input.feature] != nil {
            guard let value = given[input.name] else { throw Failure("\(input.name) is missing") }
            features[input.feature] = MLFeatureValue(multiArray: value)
        }
        let results = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: features))
        var found = Tensors()
        for output in method.outputs {
            found[output.name] = results.featureValue(for: output.feature)?.multiArrayValue
        }
        return found
    }
}

// The noise: Philox4x32-10 and Box-Muller in float64, each operation rounded, never fused.

func philox(_ block: UInt64, seed: UInt64, stream: UInt32) -> [UInt32] {
    var c: [UInt32] = [UInt32(truncatingIfNeeded: block), UInt32(truncatingIfNeeded: block >> 32), stream, 0]
    var k = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
    for _ in 0..<10 {
        let first = c[0].multipliedFullWidth(by: 0xD251_1F53), second = c[2].multipliedFullWidth(by: 0xCD9E_8D57)
        c = [second.high ^ c[1] ^ k.0, second.low, first.high ^ c[3] ^ k.1, first.low]
        k = (k.0 &+ 0x9E37_79B9, k.1 &+ 0xBB67_AE85)
    }
    return c
}

func horner(_ y: Double, _ terms: [Double]) -> Double {
    terms.dropLast().reversed().reduce(terms.last!) { total, term in total * y + term }
}

func factorial(_ n: Int) -> Double { n < 2 ? 1 : (2...n).reduce(1.0) { $0 * Double($1) } }

let logTerms = (0..<12).map { 1 / Double(2 * $0 + 1) }
let sineTerms = (0..<9).map { ($0 % 2 == 0 ? 1 : -1) / factorial(2 * $0 + 1) }
let cosineTerms = (0..<9).map { ($0 % 2 == 0 ? 1 : -1) / factorial(2 * $0) }

func logarithm(_ u: Double) -> Double {
    var f = u.significand / 2, e = u.exponent + 1
    if f < 0.7071067811865476 { (f, e) = (f + f, e - 1) }
    let s = (f - 1) / (f + 1)
    return Double(e) * 0.6931471805599453 + (s + s) * horner(s * s, logTerms)
}

func normals(_ count: Int, seed: UInt64, stream: Int) -> [Float] {
    var found: [Float] = []
    for block in 0..<UInt64((count + 3) / 4) {
        let words = philox(block, seed: seed, stream: UInt32(stream))
        for (v, w) in [(words[0], words[1]), (words[2], words[3])] {
            let radius = (-2 * logarithm((Double(v) + 0.5) * 0x1p-32)).squareRoot()
            let octant = (Int64(w) + 1 << 29) >> 30
            let x = Double(Int64(w) - octant << 30) * 0x1p-32 * 6.283185307179586
            let sine = x * horner(x * x, sineTerms), cosine = horner(x * x, cosineTerms)
            let (c, s) = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)][Int(octant & 3)]
            found += [Float(radius * c), Float(radius * s)]
        }
    }
    return Array(found.prefix(count))
}

// The picture.

/// What `prepare` takes of a prompt, or of a negative one.
func inputs(of prompt: String, negative: Bool, _ manifest: Manifest, in bundle: URL) throws -> Tensors {
    if let labels = manifest.prompt?.labels {
        guard let number = prompt.isEmpty ? labels.count : labels[prompt] else {
            throw Failure("\(prompt) is no class of the model")
        }
        return ["label": tensor([Float(number)], [1])]
    }
    guard let embedded = manifest.prompt?.embedded else { throw Failure("export with --prompts-embedded FILE") }
    let known = negative ? embedded.negatives : embedded.prompts
    guard let index = known.firstIndex(of: prompt) else {
        throw Failure("the bundle carries: \(known.joined(separator: ", "))")
    }
    let row = negative ? embedded.prompts.count + index : index
    return try tensors(of: row, in: bundle.appendingPathComponent(embedded.file))
}

/// A row at one guidance: coefficients of predictions and noise by steps back.
struct Step {
    let timestep, inputScale, a: Float
    let text, negative, noise: [Float]

    init(_ row: Manifest.Row, guidance: Double) {
        let guidance = max(1, guidance), b = row.b ?? []
        func sums(_ own: [Double]?, _ factor: Double) -> [Float] {
            let own = own ?? []
            return (0..<max(own.count, b.count)).map { j in
                Float((j < own.count ? own[j] : 0) + factor * (j < b.count ? b[j] : 0))
            }
        }
        timestep = Float(row.timestep)
        inputScale = Float(row.input_scale)
        a = Float(row.a)
        text = sums(row.b_text, guidance)
        negative = sums(row.b_negative, 1 - guidance)
        noise = (row.c ?? []).map { Float($0) }
    }
}

/// Whether some step takes what was predicted in step k.
func isUsed(_ coefficients: [[Float]], _ k: Int) -> Bool {
    coefficients.enumerated().contains { i, row in i >= k && i - k < row.count && row[i - k] != 0 }
}

/// The last latents [C, H, W] of a prompt.
func sampled(_ prompt: String, seed: UInt64, _ manifest: Manifest, in bundle: URL) async throws -> [Float] {
    guard let sampling = manifest.sampling, let plan = sampling.plans[sampling.plan] else {
        throw Failure("the bundle holds a transformer alone")
    }
    let prepare = try await Program(manifest, "denoiser", "prepare", in: bundle)
    let denoise = try await Program(manifest, "denoiser", "denoise", in: bundle)
    let steps = plan.rows.map { Step($0, guidance: sampling.guidance) }
    let shape = manifest.latents.shape, count = shape.reduce(1, *)
    var latents = normals(count, seed: seed, stream: 0).map { Float(plan.noise_scale) * $0 }
    // The text, and the negative prompt if any step takes it.
    let sides = [(prompt, false, steps.map { $0.text }), (sampling.negative, true, steps.map { $0.negative })]
    var conditionings: [Tensors] = [[:], [:]], predictions: [[Int: [Float]]] = [[:], [:]]
    for (side, (text, negative, coefficients)) in sides.enumerated()
    where steps.indices.contains(where: { isUsed(coefficients, $0) }) {
        conditionings[side] = try prepare(inputs(of: text, negative: negative, manifest, in: bundle))
    }
    for (k, step) in steps.enumerated() {
        let given = latents.map { step.inputScale * $0 }
        for (side, (_, _, coefficients)) in sides.enumerated() where isUsed(coefficients, k) {
            var arguments = conditionings[side]
            arguments["latents"] = tensor(given, [1] + shape)
            arguments["timestep"] = tensor([step.timestep], [1])
            guard let prediction = try denoise(arguments)["prediction"] else { throw Failure("no prediction") }
            predictions[side][k] = floats(prediction)
        }
        latents = latents.map { step.a * $0 }
        func add(_ coefficient: Float, _ values: [Float]) {
            latents = zip(latents, values).map { $0 + coefficient * $1 }
        }
        for (side, (_, _, coefficients)) in sides.enumerated() {
            for (j, coefficient) in coefficients[k].enumerated() where coefficient != 0 {
                add(coefficient, predictions[side][k - j]!)
            }
        }
        for (j, coefficient) in step.noise.enumerated() where coefficient != 0 {
            add(coefficient, normals(count, seed: seed, stream: k + 1 - j))
        }
    }
    return latents
}

/// Values [3, H, W] of the picture of latents, and its height and width.
func decoded(_ latents: [Float], _ manifest: Manifest, in bundle: URL) async throws -> ([Float], Int, Int) {
    let shape = manifest.latents.shape
    guard let program = manifest.programs["image_decoder"] else { return (latents, shape[1], shape[2]) }
    guard program.methods["decode"]?.inputs[0].shape == [1] + shape else {
        throw Failure("tiles are not mixed here: export with --decode-tile \(max(shape[1], shape[2]))")
    }
    let decode = try await Program(manifest, "image_decoder", "decode", in: bundle)
    guard let picture = try decode(["latents": tensor(latents, [1] + shape)])["picture"] else {
        throw Failure("no picture")
    }
    return (floats(picture), picture.shape[2].intValue, picture.shape[3].intValue)
}

func write(_ values: [Float], height: Int, width: Int, to file: URL) throws {
    let plane = height * width
    let pixels = (0..<3 * plane).map { i -> UInt8 in
        let value = (values[i % 3 * plane + i / 3] + 1) * 127.5
        return UInt8(min(max(value, 0), 255).rounded(.toNearestOrEven))
    }
    guard let provider = CGDataProvider(data: Data(pixels) as CFData),
        let space = CGColorSpace(name: CGColorSpace.sRGB),
        let image = CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * width, space: space,
            bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider, decode: nil,
            shouldInterpolate: false, intent: .defaultIntent),
        let destination = CGImageDestinationCreateWithURL(file as CFURL, UTType.png.identifier as CFString, 1, nil)
    else { throw Failure("\(file.path) cannot be made") }
    CGImageDestinationAddImage(destination, image, nil)
    guard CGImageDestinationFinalize(destination) else { throw Failure("\(file.path) cannot be written") }
}

@main
struct Generate {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 5, let seed = UInt64(arguments[3]), seed < 1 << 63 else {
            throw Failure("generate BUNDLE PROMPT SEED IMAGE.png")
        }
        let bundle = URL(fileURLWithPath: arguments[1])
        let content = try Data(contentsOf: bundle.appendingPathComponent("manifest.json"))
        let manifest = try JSONDecoder().decode(Manifest.self, from: content)
        guard manifest.target == "coreml" else { throw Failure("the bundle is for \(manifest.target)") }
        let latents = try await sampled(arguments[2], seed: seed, manifest, in: bundle)
        let (values, height, width) = try await decoded(latents, manifest, in: bundle)
        try write(values, height: height, width: width, to: URL(fileURLWithPath: arguments[4]))
    }
}
