package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Whether one part of a well-typed manifest goes with another. */
final class Links {
    static final String DENOISER = "denoiser";
    static final String DECODER = "image_decoder";
    /** A method of the decoder for smaller tiles, which takes less memory. It may be absent. */
    static final String SMALL = "decode_small";
    static final String IMAGE_ENCODER = "image_encoder";

    private Links() {
    }

    /** Throws BundleException where something is spoken of that is not there. */
    static void check(Manifest manifest) throws BundleException {
        checkMethods(manifest);
        Signatures.check(manifest);
        checkPrompt(manifest.get("prompt") != null, manifest.object("prompt"));
        checkFiles(manifest);
        checkPlans(manifest);
    }

    /** The methods that a program has by its role; none where the role is another. */
    static List<String> methods(String role) {
        List<String> methods = new ArrayList<>();
        if (role.equals(DENOISER)) {
            methods.add("prepare");
            methods.add("denoise");
        } else if (role.equals(DECODER)) {
            methods.add("decode");
        } else if (role.equals(IMAGE_ENCODER) || Schema.ENCODERS.contains(role)) {
            methods.add("encode");
        }
        return methods;
    }

    private static void checkMethods(Manifest manifest) throws BundleException {
        Map<String, Object> programs = manifest.object("programs");
        Set<String> roles = new LinkedHashSet<>(Collections.singleton(DENOISER));
        roles.addAll(programs.keySet());
        roles.addAll(Manifest.object(manifest.object("prompt"), "encoders").keySet());
        for (String role : roles) {
            Map<String, Object> found = Manifest.object(Manifest.object(programs, role), "methods");
            for (String method : methods(role)) {
                if (!found.containsKey(method)) {
                    throw new BundleException(".programs." + role + ".methods." + method + " is missing");
                }
            }
        }
    }

    private static void checkPrompt(boolean given, Map<String, Object> prompt) throws BundleException {
        if (given && Manifest.object(prompt, "encoders").isEmpty() && Manifest.object(prompt, "labels").isEmpty()
                && prompt.get("embedded") == null) {
            throw new BundleException(".prompt has neither encoders nor labels nor embedded prompts");
        }
    }

    private static void checkFiles(Manifest manifest) throws BundleException {
        Map<String, Object> programs = manifest.object("programs");
        Set<String> files = manifest.object("files").keySet();
        if (files.contains(Manifest.FILE)) {
            throw new BundleException(".files lists " + Manifest.FILE + " itself");
        }
        Set<String> folders = new HashSet<>();
        for (String file : files) {
            folders.addAll(Paths.parents(file));
        }
        for (Map.Entry<String, String> entry : roles(manifest).entrySet()) {
            String role = entry.getKey();
            boolean mayBeFolder = role.equals("simulation") || programs.containsKey(role);
            if (!files.contains(entry.getValue()) && !(mayBeFolder && folders.contains(entry.getValue()))) {
                throw new BundleException("'" + entry.getValue() + "', the " + role + ", is not in .files");
            }
        }
        for (String role : programs.keySet()) {
            Map<String, Object> methods = Manifest.object(Manifest.object(programs, role), "methods");
            for (String name : methods.keySet()) {
                Map<String, Object> method = Manifest.object(methods, name);
                if (method.containsKey("package")) {
                    Schema.PACKAGED.check(method, ".programs." + role + ".methods." + name);
                    if (!folders.contains(method.get("package"))) {
                        throw new BundleException("'" + method.get("package") + "', the package of " + role + "."
                                + name + ", is not in .files");
                    }
                }
            }
        }
    }

    private static void checkPlans(Manifest manifest) throws BundleException {
        Map<String, Object> plans = Manifest.object(manifest.object("sampling"), "plans");
        for (Map.Entry<String, Object> entry : plans.entrySet()) {
            try {
                PlanReader.read(entry.getValue());
            } catch (BundleException error) {
                throw new BundleException(
                        error.getMessage() + " (.sampling.plans[" + Kind.shown(entry.getKey()) + "])");
            }
        }
        for (String part : new String[] {"sampling", "golden"}) {
            Object plan = manifest.object(part).get("plan");
            if (plan != null && !plans.containsKey(plan)) {
                throw new BundleException(
                        "." + part + ".plan is " + Kind.shown(plan) + ", which is not among the plans");
            }
        }
    }

    /** The paths that the manifest speaks of, by what they are: programs, tokenizers, golden picture, simulation. */
    private static Map<String, String> roles(Manifest manifest) {
        Map<String, String> paths = new LinkedHashMap<>();
        Map<String, Object> programs = manifest.object("programs");
        for (String role : programs.keySet()) {
            paths.put(role, (String) Manifest.object(programs, role).get("file"));
        }
        Map<String, Object> prompt = manifest.object("prompt");
        Map<String, Object> encoders = Manifest.object(prompt, "encoders");
        for (String role : encoders.keySet()) {
            paths.put(role.replace("text_encoder", "tokenizer"),
                    (String) Manifest.object(encoders, role).get("tokenizer"));
        }
        if (prompt.get("embedded") != null) {
            paths.put("embedded", (String) Manifest.object(prompt, "embedded").get("file"));
        }
        if (manifest.get("golden") != null) {
            paths.put("golden", (String) manifest.object("golden").get("file"));
        }
        if (manifest.get("simulation") != null) {
            paths.put("simulation", manifest.text("simulation"));
        }
        return paths;
    }
}
