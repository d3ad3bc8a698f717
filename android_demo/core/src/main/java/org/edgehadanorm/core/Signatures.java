package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
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
        signatures.checkEncodePicture();
        Map<String, Object> encoders = Manifest.object(manifest.object("prompt"), "encoders");
        for (String role : encoders.keySet()) {
            signatures.checkEncode(role, Manifest.object(encoders, role));
        }
    }

    private void checkDenoise(List<?> latents) throws BundleException {
        for (String side : new String[] {"inputs", "outputs"}) {
            int least = side.equals("inputs") ? 2 : 1;
            List<List<?>> shapes = shapes(Links.DENOISER, "denoise", side);
            if (shapes.size() < least || !shapes.get(0).equals(one(latents))) {
                throw new BundleException(
                        ".programs.denoiser.methods.denoise." + side + " do not begin with [1, *latents.shape]");
            }
        }
    }

    private void checkDecode() throws BundleException {
        Map<String, Object> methods = Manifest.object(Manifest.object(programs, Links.DECODER), "methods");
        for (String name : new String[] {"decode", Links.SMALL}) {
            if (methods.containsKey(name)) {
                List<List<?>> shapes = shapes(Links.DECODER, name, "inputs");
                if (shapes.size() != 1 || shapes.get(0).size() != 4) {
                    throw new BundleException(".programs." + Links.DECODER + ".methods." + name
                            + ".inputs are not one tensor [1, C, h, w]");
                }
            }
        }
    }

    private void checkEncodePicture() throws BundleException {
        if (programs.containsKey(Links.IMAGE_ENCODER)) {
            List<List<?>> given = shapes(Links.IMAGE_ENCODER, "encode", "inputs");
            List<List<?>> made = shapes(Links.IMAGE_ENCODER, "encode", "outputs");
            boolean fit = given.size() == 1 && made.size() == 1 && given.get(0).size() == 4 && made.get(0).size() == 4;
            if (!fit || !given.get(0).get(1).equals(3L)) {
                throw new BundleException(".programs." + Links.IMAGE_ENCODER
                        + ".methods.encode is not of one picture [1, 3, H, W] to one of latents");
            }
        }
    }

    private void checkEncode(String role, Map<String, Object> encoder) throws BundleException {
        List<?> sequence = one(Collections.singletonList(encoder.get("length")));
        Map<String, List<?>> wanted = new LinkedHashMap<>();
        wanted.put("ids", sequence);
        wanted.put("mask", sequence);
        if (encoder.get("kept") != null) {
            wanted.put("kept", Collections.singletonList(places(role, encoder)));
        }
        List<Map<String, Object>> inputs = tensors(role, "encode", "inputs");
        boolean fit = !inputs.isEmpty() && inputs.get(0).get("name").equals("ids");
        for (Map<String, Object> input : inputs) {
            fit &= input.get("shape").equals(wanted.get(input.get("name")));
        }
        if (!fit) {
            throw new BundleException(".programs." + role + ".methods.encode.inputs are not "
                    + String.join(", ", wanted.keySet()) + " of their lengths");
        }
    }

    /** How many states an encoder gives of a prompt and of a negative one. */
    private static long places(String role, Map<String, Object> encoder) throws BundleException {
        List<?> prompt = (List<?>) Manifest.object(encoder, "kept").get("prompt");
        List<?> negative = (List<?>) Manifest.object(encoder, "kept").get("negative");
        boolean fit = prompt.size() == negative.size();
        for (List<?> places : Arrays.<List<?>>asList(prompt, negative)) {
            for (Object place : places) {
                fit &= (Long) place < (Long) encoder.get("length");
            }
        }
        if (!fit) {
            throw new BundleException(
                    ".prompt.encoders." + role + ".kept are not as many places each within the length");
        }
        return prompt.size();
    }

    /** Shapes of the tensors on one side of a method. */
    private List<List<?>> shapes(String role, String method, String side) {
        List<List<?>> shapes = new ArrayList<>();
        for (Map<String, Object> tensor : tensors(role, method, side)) {
            shapes.add((List<?>) tensor.get("shape"));
        }
        return shapes;
    }

    private List<Map<String, Object>> tensors(String role, String method, String side) {
        Map<String, Object> methods = Manifest.object(Manifest.object(programs, role), "methods");
        return Manifest.objects(Manifest.object(methods, method), side);
    }

    /** The shape of one sequence. */
    private static List<?> one(List<?> shape) {
        List<Object> sizes = new ArrayList<>(Collections.<Object>singleton(1L));
        sizes.addAll(shape);
        return sizes;
    }
}
