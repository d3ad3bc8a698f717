package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** Whether methods take and give what is made for them and of them. */
final class Signatures {
    private final Map<String, Object> programs;

    private Signatures(Map<String, Object> programs) {
        this.programs = programs;
    }

    /** Throws BundleException where a method, all of which are there, could not be given what is made for it. */
    static void check(Manifest manifest) throws BundleException {
        Signatures signatures = new Signatures(manifest.object("programs"));
        signatures.checkDenoise((List<?>) manifest.object("latents").get("shape"));
        signatures.checkDecode();
        Map<String, Object> encoders = Manifest.object(manifest.object("prompt"), "encoders");
        for (String role : encoders.keySet()) {
            signatures.checkEncode(role, Manifest.object(encoders, role).get("length"));
        }
    }

    private void checkDenoise(List<?> latents) throws BundleException {
        for (String side : new String[] {"inputs", "outputs"}) {
            int least = side.equals("inputs") ? 2 : 1;
            List<List<?>> shapes = shapes(Links.DENOISER, "denoise", side);
            if (shapes.size() < least || !sample(shapes.get(0)).equals(latents)) {
                throw new BundleException(
                        ".programs.denoiser.methods.denoise." + side + " do not begin with [batch, *latents.shape]");
            }
        }
    }

    private void checkDecode() throws BundleException {
        if (programs.containsKey(Links.DECODER)) {
            List<List<?>> shapes = shapes(Links.DECODER, "decode", "inputs");
            if (shapes.size() != 1 || shapes.get(0).size() != 4) {
                throw new BundleException(
                        ".programs." + Links.DECODER + ".methods.decode.inputs are not one tensor [1, C, h, w]");
            }
        }
    }

    private void checkEncode(String role, Object length) throws BundleException {
        List<List<?>> shapes = shapes(role, "encode", "inputs");
        boolean fit = !shapes.isEmpty();
        for (List<?> shape : shapes) {
            fit &= sample(shape).equals(Collections.singletonList(length));
        }
        if (!fit) {
            throw new BundleException(
                    ".programs." + role + ".methods.encode.inputs are not of " + length + " ids each, the length");
        }
    }

    /** Shapes of the tensors on one side of a method. */
    private List<List<?>> shapes(String role, String method, String side) {
        Map<String, Object> methods = Manifest.object(Manifest.object(programs, role), "methods");
        List<List<?>> shapes = new ArrayList<>();
        for (Map<String, Object> tensor : Manifest.objects(Manifest.object(methods, method), side)) {
            shapes.add((List<?>) tensor.get("shape"));
        }
        return shapes;
    }

    /** A shape without its batch. */
    private static List<?> sample(List<?> shape) {
        return shape.subList(Math.min(1, shape.size()), shape.size());
    }
}
