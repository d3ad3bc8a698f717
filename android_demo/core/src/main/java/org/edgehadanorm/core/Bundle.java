package org.edgehadanorm.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** A folder with all that a device needs to make pictures; every file of it has been verified. */
public final class Bundle {
    private final File folder;
    private final Manifest manifest;
    private final Map<String, Program> programs;
    private final Map<String, Plan> plans = new LinkedHashMap<>();
    /** The same bundle at all its sizes, by their names; all of them have the same map. */
    private final Map<String, Bundle> sizes;

    private Bundle(File folder, Manifest manifest, Map<String, Bundle> sizes) throws BundleException {
        this.folder = folder;
        this.manifest = manifest;
        this.sizes = sizes;
        programs = manifest.programs(folder);
        Map<String, Object> byName = Manifest.object(manifest.object("sampling"), "plans");
        List<String> names = new ArrayList<>(byName.keySet());
        names.sort((one, other) -> Integer.compare(steps(one), steps(other)));
        for (String name : names) {
            plans.put(name, PlanReader.read(byName.get(name)));
        }
    }

    private static Bundle of(File folder, Manifest manifest) throws BundleException {
        Map<String, Bundle> sizes = new LinkedHashMap<>();
        Bundle usual = new Bundle(folder, manifest, sizes);
        sizes.put(manifest.size(), usual);
        for (String size : manifest.object("sizes").keySet()) {
            sizes.put(size, new Bundle(folder, manifest.at(size), sizes));
        }
        return usual;
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
        return of(folder, manifest);
    }

    /** The same bundle after its folder was moved. */
    Bundle movedTo(File target) throws BundleException {
        return of(target, manifest);
    }

    /** Throws BundleException, which says why, where what runs these targets cannot make pictures with it. */
    public void requireRunnable(Set<String> targets) throws BundleException {
        if (!targets.contains(target())) {
            String here = String.join(" or ", targets);
            throw new BundleException("bundle " + name() + " was made for " + target() + "; this app runs " + here
                    + ": export it with --target " + here);
        }
        if (plans.isEmpty() || prompt().kind() == PromptForm.Kind.NONE) {
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

    /** The name of that size, such as `768x512`. */
    public String size() {
        return manifest.size();
    }

    /** The names of the sizes that it draws, the default one first. */
    public List<String> sizes() {
        return new ArrayList<>(sizes.keySet());
    }

    /** The same bundle at one of its sizes. Throws BundleException, with the sizes that there are, where it is none. */
    public Bundle at(String size) throws BundleException {
        Bundle found = sizes.get(size);
        if (found == null) {
            throw new BundleException("bundle " + name() + " draws no pictures of " + Text.plain(size)
                    + " pixels; take one of " + Text.some(sizes.keySet(), 40));
        }
        return found;
    }

    /** The same bundle at its default size, which the golden sample is of. */
    public Bundle usual() {
        return sizes.values().iterator().next();
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

    /**
     * The plans that can be asked for, by their names; none of a transformer alone. First are those of schedulers,
     * which are named by their number of steps, the smallest first, and then others in the manifest's order.
     */
    public Map<String, Plan> plans() {
        return Collections.unmodifiableMap(plans);
    }

    /** The name of the plan to ask for; empty of a transformer alone. */
    public String defaultPlan() {
        return plans.isEmpty() ? "" : (String) manifest.object("sampling").get("plan");
    }

    /** The guidance to ask for; 1, which is none, of a transformer alone. */
    public double defaultGuidance() {
        return plans.isEmpty() ? 1 : ((Number) manifest.object("sampling").get("guidance")).doubleValue();
    }

    /** The negative prompt to ask for; empty of a transformer alone. */
    public String defaultNegative() {
        return plans.isEmpty() ? "" : (String) manifest.object("sampling").get("negative");
    }

    /** A plan by its name. Throws BundleException, with the names that there are, where it is none. */
    public Plan plan(String name) throws BundleException {
        Plan plan = plans.get(name);
        if (plan == null) {
            throw new BundleException("bundle " + name() + " has no plan '" + Text.plain(name) + "'; take one of "
                    + Text.plain(Text.some(plans.keySet(), 40)));
        }
        return plan;
    }

    /** The plan of a request, from where its picture begins. Throws BundleException where it is none. */
    public Plan plan(Request request) throws BundleException {
        Plan plan = plan(request.plan());
        return request.original().isPresent() ? plan.begun(request.strength()) : plan;
    }

    /** Whether pictures can begin with a known one, which is either encoded or the latents themselves. */
    public boolean takesOriginals() {
        return programs.containsKey(Links.DECODER)
                ? programs.containsKey(Links.IMAGE_ENCODER) : latentShape()[0] == Picture.CHANNELS;
    }

    /** The number of steps that a plan is named by; beyond all of them where it is named otherwise. */
    private static int steps(String plan) {
        return plan.matches("[1-9][0-9]{0,5}") ? Integer.parseInt(plan) : Integer.MAX_VALUE;
    }

    /** The sample to check a device with, where there is one of this size. */
    public Optional<Golden> golden() {
        return manifest.get("golden") == null
                ? Optional.empty() : Optional.of(new Golden(folder, manifest.object("golden")));
    }

    /** That its programs take. */
    public Memory memory() {
        return new Memory(programs, manifest.object("files"));
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
