package org.edgehadanorm.demo;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Collections;
import java.util.Set;
import java.util.function.LongSupplier;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.RunnerException;
import org.edgehadanorm.core.Tensor;

/**
 * A zipped bundle of a model of classes that draws 2 x 2 pixels in two steps, and who runs it. It has steps under any
 * guidance, steps that were made for one, and steps without, which do not say how noisy their latents are.
 */
final class TinyBundle {
    private static final String TENSOR = "{\"name\": \"%s\", \"dtype\": \"%s\", \"shape\": %s}";
    private static final String ACTIVATIONS = "\"activations\": 200";
    private static final String GOLDEN = "{\"file\": \"golden.png\", \"prompt\": \"dog\", \"negative\": \"\","
            + " \"seed\": 1, \"plan\": \"2\", \"guidance\": 1.5, \"psnr_db\": 40}";
    /** A plan of two steps which halve the latents, for what is predicted is 0. */
    private static final String PLAN = "{\"noise_scale\": 1, \"guidance\": %1$s, \"rows\": [{\"timestep\": 2, %2$s},"
            + " {\"timestep\": 1, %2$s}]}";
    private static final String ROW = "\"input_scale\": 1, \"a\": 0.5, \"%s\": [0.5]";
    /** A size up to the plan of the default's name. */
    private static final String OTHER = "\"1x2\": {\"image\": {\"width\": 1, \"height\": 2, \"channels\": 3},"
            + " \"latents\": {\"shape\": [3, 2, 1]}, \"methods\": {\"denoiser\": {\"denoise\": \"denoise_1x2\"}},"
            + " \"plans\": {\"2\": ";
    private static final String XNNPACK = "xnnpack";
    private final String target;
    private final boolean golden;
    private final boolean decoder;
    private final boolean sizes;
    private final byte[] program;
    private final byte[] picture = {1, 2, 3};

    private TinyBundle(String target, int bytes, boolean golden, boolean decoder, boolean sizes) {
        this.target = target;
        this.golden = golden;
        this.decoder = decoder;
        this.sizes = sizes;
        this.program = new byte[bytes];
    }

    static TinyBundle ofBytes(int bytes) {
        return new TinyBundle(XNNPACK, bytes, false, false, false);
    }

    static TinyBundle of(String target) {
        return new TinyBundle(target, 1, false, false, false);
    }

    /** With a golden picture, a file that only a test can read. */
    static TinyBundle withGolden() {
        return new TinyBundle(XNNPACK, 1, true, false, false);
    }

    /** With an image decoder, and no encoder. */
    static TinyBundle withDecoder() {
        return new TinyBundle(XNNPACK, 1, false, true, false);
    }

    /** With a golden picture, and pictures of 1 x 2 pixels too, for which it has the plan "2" alone. */
    static TinyBundle withSizes() {
        return new TinyBundle(XNNPACK, 1, true, false, true);
    }

    InputStream zip() throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try (ZipOutputStream zip = new ZipOutputStream(out)) {
            put(zip, "denoiser.pte", program);
            if (golden) {
                put(zip, "golden.png", picture);
            }
            put(zip, "manifest.json", manifest().getBytes(StandardCharsets.UTF_8));
        }
        return new ByteArrayInputStream(out.toByteArray());
    }

    private static void put(ZipOutputStream zip, String name, byte[] bytes) throws IOException {
        zip.putNextEntry(new ZipEntry(name));
        zip.write(bytes);
        zip.closeEntry();
    }

    private String manifest() {
        String sample = "[1, 3, 2, 2]";
        String known = "\"known\": [0.5, 0.5], ";
        String plans = "{\"made for 3\": " + plan("3", known, "b") + ", \"2\": " + plan("null", known, "b")
                + ", \"without\": " + plan("null", "", "b_text") + "}";
        String decodes = ", \"image_decoder\": {\"file\": \"denoiser.pte\", \"methods\": {\"decode\": {\"inputs\": ["
                + tensor("latents", "float32", sample) + "], \"outputs\": [" + tensor("picture", "float32", sample)
                + "], " + ACTIVATIONS + "}}}";
        return "{\"schema\": 3, \"generator\": \"a test\", \"target\": \"" + target + "\", \"family\": \"Tiny\","
                + " \"recipe\": \"none\", \"image\": {\"width\": 2, \"height\": 2, \"channels\": 3},"
                + " \"latents\": {\"shape\": [3, 2, 2]}, \"programs\": {\"denoiser\": {\"file\": \"denoiser.pte\","
                + " \"methods\": {\"prepare\": {\"inputs\": [" + tensor("label", "float32", "[1]") + "], \"outputs\": ["
                + tensor("conditioning.0", "float32", "[1]") + "], " + ACTIVATIONS + "}, \"denoise\": "
                + denoise(sample) + (sizes ? ", \"denoise_1x2\": " + denoise("[1, 3, 2, 1]") : "") + "}}"
                + (decoder ? decodes : "") + "}, \"sizes\": {" + (sizes ? OTHER + plan("null", known, "b") + "}}" : "")
                + "}, \"prompt\": {\"encoders\": {}, \"lower\": false,"
                + " \"labels\": {\"cat\": 0, \"dog\": 1}, \"embedded\": null}, \"sampling\": {\"plan\": \"2\","
                + " \"guidance\": 1.5, \"negative\": \"dog\", \"plans\": " + plans + "},"
                + " \"noise\": \"philox4x32-10/box-muller\", \"golden\": " + (golden ? GOLDEN : "null")
                + ", \"simulation\": null, \"licence\": \"CC0\", \"files\": {" + listed("denoiser.pte", program)
                + (golden ? ", " + listed("golden.png", picture) : "") + "}}";
    }

    private static String denoise(String sample) {
        return "{\"inputs\": [" + tensor("latents", "float32", sample) + ", " + tensor("timestep", "float32", "[1]")
                + ", " + tensor("conditioning.0", "float32", "[1]") + "], \"outputs\": ["
                + tensor("prediction", "float32", sample) + "], " + ACTIVATIONS + "}";
    }

    /** known: the rows' scales of a picture and its noise, where they say them; coefficients: the name of the rows'. */
    private static String plan(String guidance, String known, String coefficients) {
        return String.format(PLAN, guidance, known + String.format(ROW, coefficients));
    }

    private static String listed(String name, byte[] bytes) {
        return "\"" + name + "\": {\"sha256\": \"" + sha256(bytes) + "\", \"bytes\": " + bytes.length + "}";
    }

    private static String tensor(String name, String dtype, String shape) {
        return String.format(TENSOR, name, dtype, shape);
    }

    private static String sha256(byte[] bytes) {
        try {
            return String.format("%064x", new BigInteger(1, MessageDigest.getInstance("SHA-256").digest(bytes)));
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error);
        }
    }

    /** Runs the methods of the manifest, of bundles for xnnpack; `before` comes first and may fail or cancel. */
    static ModuleRunner.Loader loader(Before before) {
        return loader(Collections.singleton(XNNPACK), () -> 0, before);
    }

    /** The same of bundles for these targets, with so much free memory. */
    static ModuleRunner.Loader loader(Set<String> targets, LongSupplier free, Before before) {
        return new ModuleRunner.Loader() {
            @Override
            public Set<String> targets() {
                return targets;
            }

            @Override
            public long free() {
                return free.getAsLong();
            }

            @Override
            public ModuleRunner load(File program, String... methods) {
                return runner(before);
            }
        };
    }

    private static ModuleRunner runner(Before before) {
        return new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
                before.run(method);
                return new Tensor[] {method.equals("prepare") ? Tensor.of(new float[1], 1)
                        : Tensor.of(new float[inputs[0].floats().length], inputs[0].shape())};
            }

            @Override
            public void close() {
                // There is nothing to give back.
            }
        };
    }

    interface Before {
        void run(String method) throws RunnerException;
    }
}
