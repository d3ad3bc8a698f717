package org.edgehadanorm.core;

import java.util.Arrays;
import java.util.List;
import java.util.regex.Pattern;

/** The form of a manifest, which edge_hadanorm/bundle/README.md describes. */
final class Schema {
    /** The one that is read. */
    static final long VERSION = 3;
    static final String NOISE = "philox4x32-10/box-muller";
    static final List<String> ENCODERS = Arrays.asList("text_encoder", "text_encoder_2", "text_encoder_3");

    private static final List<String> DTYPES = Arrays.asList(
            "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool");
    private static final long EXACT = 1L << 53;

    private static final Kind TEXT = Kind.leaf("a string", String.class::isInstance);
    private static final Kind FLAG = Kind.leaf("true or false", Boolean.class::isInstance);
    private static final Kind COUNT = Kind.leaf("a positive integer", value -> isInteger(value, 1, 1L << 31));
    private static final Kind INDEX = Kind.leaf("a non-negative integer", value -> isInteger(value, 0, 1L << 31));
    private static final Kind INT64 =
            Kind.leaf("a non-negative integer", value -> value instanceof Long && (Long) value >= 0);
    private static final Kind NUMBER = Kind.leaf("a finite number", Schema::isNumber);
    private static final Kind PATH =
            Kind.leaf("a plain relative path", value -> value instanceof String && Paths.isPlain((String) value));
    private static final Kind SHA256 = Kind.leaf("a sha256",
            value -> value instanceof String && Pattern.matches("[0-9a-f]{64}", (String) value));
    private static final Kind SHAPE = Kind.leaf("a list of positive integers", Schema::isShape);
    private static final Kind LATENTS =
            Kind.leaf("[C, H, W]", value -> isShape(value) && ((List<?>) value).size() == 3);
    private static final Kind ANY = (value, where) -> { };

    private static final Kind IMAGE =
            Kind.object().with("width", COUNT).with("height", COUNT).with("channels", COUNT);
    /** What is another at another size; names of methods by those that they stand for, by role. */
    private static final Kind SIZE = Kind.object()
            .with("image", IMAGE)
            .with("latents", Kind.object().with("shape", LATENTS))
            .with("methods", Kind.dictionary(TEXT, Kind.dictionary(TEXT, TEXT)))
            .withNullable("plans", Kind.dictionary(TEXT, ANY));
    private static final Kind TENSOR = Kind.object()
            .with("name", TEXT)
            .with("dtype", oneOf(DTYPES))
            .with("shape", SHAPE);
    private static final Kind METHOD = Kind.object()
            .with("inputs", Kind.list(TENSOR))
            .with("outputs", Kind.list(TENSOR))
            .withNullable("activations", INT64);
    private static final Kind PROGRAM = Kind.object()
            .with("file", PATH)
            .with("methods", Kind.dictionary(TEXT, METHOD));
    private static final Kind ENCODER = Kind.object()
            .with("tokenizer", PATH)
            .with("length", COUNT)
            .with("pad_id", INDEX)
            .withNullable("unknown_id", INDEX)
            .with("prefix", TEXT)
            .withNullable("kept",
                    Kind.object().with("prompt", Kind.list(INDEX)).with("negative", Kind.list(INDEX)));
    private static final Kind PROMPT = Kind.object()
            .with("encoders", Kind.dictionary(oneOf(ENCODERS), ENCODER))
            .with("lower", FLAG)
            .withNullable("labels", Kind.dictionary(TEXT, INDEX))
            .withNullable("embedded", Kind.object()
                    .with("file", PATH)
                    .with("prompts", Kind.list(TEXT))
                    .with("negatives", Kind.list(TEXT)));
    /** PlanReader says what a plan is. */
    private static final Kind SAMPLING = Kind.object()
            .with("plan", TEXT)
            .with("guidance", NUMBER)
            .with("negative", TEXT)
            .with("plans", Kind.dictionary(TEXT, ANY));
    private static final Kind GOLDEN = Kind.object()
            .with("file", PATH)
            .with("prompt", TEXT)
            .with("negative", TEXT)
            .with("seed", INT64)
            .with("plan", TEXT)
            .with("guidance", NUMBER)
            .with("psnr_db", NUMBER);

    static final Kind MANIFEST = Kind.object()
            .with("schema", Kind.leaf(String.valueOf(VERSION), Long.valueOf(VERSION)::equals))
            .with("generator", TEXT)
            .with("target", TEXT)
            .with("family", TEXT)
            .with("recipe", TEXT)
            .with("image", IMAGE)
            .with("latents", Kind.object().with("shape", LATENTS))
            .with("sizes", Kind.dictionary(TEXT, SIZE))
            .with("programs", Kind.dictionary(TEXT, PROGRAM))
            .withNullable("prompt", PROMPT)
            .withNullable("sampling", SAMPLING)
            .with("noise", Kind.leaf(NOISE, NOISE::equals))
            .withNullable("golden", GOLDEN)
            .withNullable("simulation", PATH)
            .with("licence", TEXT)
            .with("files", Kind.dictionary(PATH, Kind.object().with("sha256", SHA256).with("bytes", INT64)));

    private static final Kind FEATURES = Kind.list(Kind.object().with("feature", TEXT));
    /** What a method of a Core ML program has besides. */
    static final Kind PACKAGED = Kind.object()
            .with("package", PATH)
            .with("function", TEXT)
            .with("inputs", FEATURES)
            .with("outputs", FEATURES);

    private Schema() {
    }

    private static Kind oneOf(List<String> names) {
        return Kind.leaf("one of " + Text.some(names, names.size()), names::contains);
    }

    private static boolean isInteger(Object value, long least, long end) {
        return value instanceof Long && (Long) value >= least && (Long) value < end;
    }

    private static boolean isNumber(Object value) {
        if (value instanceof Double) {
            return !((Double) value).isNaN() && !((Double) value).isInfinite();
        }
        return isInteger(value, -EXACT, EXACT);
    }

    private static boolean isShape(Object value) {
        return value instanceof List && ((List<?>) value).stream().allMatch(size -> isInteger(size, 1, 1L << 31));
    }
}
