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
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

import org.edgehadanorm.core.ModuleRunner;
import org.edgehadanorm.core.RunnerException;
import org.edgehadanorm.core.Tensor;

/** A zipped bundle of a model of classes that draws 2 x 2 pixels in two steps, and who runs it. */
final class TinyBundle {
    private static final String TENSOR = "{\"name\": \"%s\", \"dtype\": \"%s\", \"shape\": %s}";
    private static final String GOLDEN = "{\"file\": \"golden.png\", \"prompt\": \"dog\", \"seed\": 1, \"steps\": 2,"
            + " \"guidance\": 1.5, \"psnr_db\": 40}";
    private static final String XNNPACK = "xnnpack";
    private final String target;
    private final boolean golden;
    private final byte[] program;
    private final byte[] picture = {1, 2, 3};

    private TinyBundle(String target, int bytes, boolean golden) {
        this.target = target;
        this.golden = golden;
        this.program = new byte[bytes];
    }

    static TinyBundle ofBytes(int bytes) {
        return new TinyBundle(XNNPACK, bytes, false);
    }

    static TinyBundle of(String target) {
        return new TinyBundle(target, 1, false);
    }

    /** With a golden picture, a file that only a test can read. */
    static TinyBundle withGolden() {
        return new TinyBundle(XNNPACK, 1, true);
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

    /** Every step halves the latents: x = 0.5 x + 0 prediction. */
    private String manifest() {
        String sample = "[2, 3, 2, 2]";
        String table = "{\"steps\": 2, \"timesteps\": [2, 1], \"input_scale\": [1, 1], \"a\": [0.5, 0.5],"
                + " \"b\": [[0], [0]], \"noise_scale\": 1}";
        return "{\"schema\": 2, \"generator\": \"a test\", \"target\": \"" + target + "\", \"family\": \"Tiny\","
                + " \"recipe\": \"none\", \"image\": {\"width\": 2, \"height\": 2, \"channels\": 3},"
                + " \"latents\": {\"shape\": [3, 2, 2]}, \"programs\": {\"denoiser\": {\"file\": \"denoiser.pte\","
                + " \"methods\": {\"prepare\": {\"inputs\": [" + tensor("label", "float32", "[2]") + "], \"outputs\": ["
                + tensor("conditioning.0", "float32", "[1]") + "]}, \"denoise\": {\"inputs\": ["
                + tensor("latents", "float32", sample) + ", " + tensor("timestep", "float32", "[1]") + ", "
                + tensor("conditioning.0", "float32", "[1]") + "], \"outputs\": ["
                + tensor("prediction", "float32", sample) + "]}}}}, \"prompt\": {\"encoders\": {}, \"lower\": false,"
                + " \"labels\": {\"cat\": 0, \"dog\": 1}, \"embedded\": null}, \"sampling\": {\"steps\": 2,"
                + " \"guidance\": 1.5, \"tables\": {\"2\": " + table + "}}, \"noise\": \"philox4x32-10/box-muller\","
                + " \"golden\": " + (golden ? GOLDEN : "null") + ", \"simulation\": null, \"licence\": \"CC0\","
                + " \"files\": {" + listed("denoiser.pte", program)
                + (golden ? ", " + listed("golden.png", picture) : "") + "}}";
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
        return loader(Collections.singleton(XNNPACK), before);
    }

    /** The same of bundles for these targets. */
    static ModuleRunner.Loader loader(Set<String> targets, Before before) {
        return new ModuleRunner.Loader() {
            @Override
            public Set<String> targets() {
                return targets;
            }

            @Override
            public ModuleRunner load(File program) {
                return runner(before);
            }
        };
    }

    private static ModuleRunner runner(Before before) {
        return new ModuleRunner() {
            @Override
            public Tensor[] run(String method, Tensor... inputs) throws RunnerException {
                before.run(method);
                return new Tensor[] {method.equals("prepare")
                        ? Tensor.of(new float[1], 1) : Tensor.of(new float[24], 2, 3, 2, 2)};
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
