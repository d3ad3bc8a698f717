package org.edgehadanorm.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;

/** A folder with all that a device needs to make pictures; every file of it has been verified. */
public final class Bundle {
    private final File folder;
    private final Manifest manifest;
    private final Map<String, Program> programs = new LinkedHashMap<>();
    private final TreeMap<Integer, SamplerTable> tables = new TreeMap<>();

    private Bundle(File folder, Manifest manifest) throws BundleException {
        this.folder = folder;
        this.manifest = manifest;
        Map<String, Object> listed = manifest.object("programs");
        for (String role : listed.keySet()) {
            programs.put(role, new Program(role, folder, Manifest.object(listed, role)));
        }
        Map<String, Object> byKey = Manifest.object(manifest.object("sampling"), "tables");
        for (Map.Entry<String, Object> entry : byKey.entrySet()) {
            tables.put(Integer.valueOf(entry.getKey()), SamplerTable.fromJson(entry.getValue()));
        }
    }

    /**
     * The bundle in a folder, verified to the last byte; progress tells of the bytes read.
     *
     * @throws BundleException where there is no manifest or it does not follow the schema, and where a file is missing,
     *         truncated, altered, foreign or outside the folder
     */
    public static Bundle open(File folder, Progress progress) throws BundleException {
        return open(folder, folder.getName(), progress);
    }

    /** The same under another name in messages. */
    static Bundle open(File folder, String name, Progress progress) throws BundleException {
        Manifest manifest = Manifest.read(folder, name);
        new Contents(folder, name).verify(manifest.object("files"), progress);
        return new Bundle(folder, manifest);
    }

    /** The same bundle after its folder was moved. */
    Bundle movedTo(File target) throws BundleException {
        return new Bundle(target, manifest);
    }

    /** Throws BundleException, which says why, where what runs these targets cannot make pictures with it. */
    public void requireRunnable(Set<String> targets) throws BundleException {
        if (!targets.contains(target())) {
            String here = String.join(" or ", targets);
            throw new BundleException("bundle " + name() + " was made for " + target() + "; this app runs " + here
                    + ": export it with --target " + here);
        }
        if (tables.isEmpty() || prompt().kind() == PromptForm.Kind.NONE) {
            throw new BundleException("bundle " + name()
                    + " is a transformer alone; export a whole pipeline to make pictures");
        }
    }

    public File folder() {
        return folder;
    }

    /** That of its folder. */
    public String name() {
        return folder.getName();
    }

    /** Name and version of what wrote it. */
    public String generator() {
        return manifest.text("generator");
    }

    /** What the programs are for, as `edge-hadanorm export --target` names it. */
    public String target() {
        return manifest.text("target");
    }

    /** The transformer's class in diffusers. */
    public String family() {
        return manifest.text("family");
    }

    /** Name of the quantization recipe. */
    public String recipe() {
        return manifest.text("recipe");
    }

    /** Of the weights. */
    public String licence() {
        return manifest.text("licence");
    }

    /** Of a picture, in pixels. */
    public int width() {
        return Manifest.integer(manifest.object("image"), "width");
    }

    /** Of a picture, in pixels. */
    public int height() {
        return Manifest.integer(manifest.object("image"), "height");
    }

    /** [C, H, W] of one sample's latents. */
    public int[] latentShape() {
        List<?> sizes = (List<?>) manifest.object("latents").get("shape");
        int[] shape = new int[sizes.size()];
        for (int i = 0; i < shape.length; i++) {
            shape[i] = ((Long) sizes.get(i)).intValue();
        }
        return shape;
    }

    /** By role, in the manifest's order. */
    public Map<String, Program> programs() {
        return Collections.unmodifiableMap(programs);
    }

    public PromptForm prompt() {
        return new PromptForm(folder, manifest.object("prompt"));
    }

    /** Numbers of steps that can be asked for, ascending; none of a transformer alone. */
    public List<Integer> steps() {
        return new ArrayList<>(tables.keySet());
    }

    /** Number of steps to ask for; 0 of a transformer alone. */
    public int defaultSteps() {
        return tables.isEmpty() ? 0 : Manifest.integer(manifest.object("sampling"), "steps");
    }

    /** Guidance to ask for; 1, which is none, of a transformer alone. */
    public double defaultGuidance() {
        return tables.isEmpty() ? 1 : ((Number) manifest.object("sampling").get("guidance")).doubleValue();
    }

    /** The table for a number of steps. Throws BundleException, with the numbers that there are, where it is none. */
    public SamplerTable table(int steps) throws BundleException {
        SamplerTable table = tables.get(steps);
        if (table == null) {
            throw new BundleException("bundle " + name() + " has no table for " + steps + " steps; take one of "
                    + Text.some(tables.keySet(), 40));
        }
        return table;
    }

    /** The sample to check a device with, where there is one. */
    public Optional<Golden> golden() {
        return manifest.get("golden") == null
                ? Optional.empty() : Optional.of(new Golden(folder, manifest.object("golden")));
    }

    /** Of all its files but the manifest. */
    public long bytes() {
        long total = 0;
        Map<String, Object> files = manifest.object("files");
        for (String name : files.keySet()) {
            total += (Long) Manifest.object(files, name).get("bytes");
        }
        return total;
    }
}
