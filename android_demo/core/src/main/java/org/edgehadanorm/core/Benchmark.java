package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What one generation takes, measured. Times are in milliseconds. */
public final class Benchmark {
    private final Bundle bundle;
    private final Request request;
    private final TimedLoader times;
    private final double total;

    private Benchmark(Bundle bundle, Request request, TimedLoader times, double total) {
        this.bundle = bundle;
        this.request = request;
        this.times = times;
        this.total = total;
    }

    /** Generates once. Throws what Generator.generate does. */
    public static Benchmark run(Bundle bundle, ModuleRunner.Loader loader, Request request, Clock clock,
            Listener listener) throws RunnerException, BundleException, Cancelled {
        TimedLoader times = new TimedLoader(bundle, loader, clock);
        long start = clock.nanoseconds();
        new Generator(bundle, times, clock).generate(request, listener);
        return new Benchmark(bundle, request, times, (clock.nanoseconds() - start) / 1e6);
    }

    /** To load each program, by its role. */
    public Map<String, Double> load() {
        return byRole("load");
    }

    /** To run each text encoder, by its role. */
    public Map<String, Double> encode() {
        return byRole("encode");
    }

    /** To prepare the denoiser for the prompt. */
    public double prepare() {
        return sum(times.of(Links.DENOISER + ".prepare"));
    }

    /** The first call of the denoiser, which may have to load what the others find. */
    public double firstStep() {
        return times.of(Links.DENOISER + ".denoise").get(0);
    }

    /** Median of the calls of the denoiser after the first, or of the only one. */
    public double medianStep() {
        List<Double> steps = new ArrayList<>(steps());
        Collections.sort(steps);
        int middle = steps.size() / 2;
        return steps.size() % 2 == 1 ? steps.get(middle) : (steps.get(middle - 1) + steps.get(middle)) / 2;
    }

    /** The fastest of them. */
    public double minStep() {
        return Collections.min(steps());
    }

    /** The slowest of them. */
    public double maxStep() {
        return Collections.max(steps());
    }

    /** To decode all tiles of the picture; 0 where latents are pixels. */
    public double decode() {
        return sum(times.of(Links.DECODER + ".decode"));
    }

    /** From the prompt to the picture. */
    public double total() {
        return total;
    }

    /** All of it as one JSON object on one line. device: what the app knows of the device, as it is. */
    public String toJson(Map<String, String> device) {
        Map<String, Object> step = new LinkedHashMap<>();
        step.put("first", firstStep());
        step.put("median", medianStep());
        step.put("min", minStep());
        step.put("max", maxStep());
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("bundle", bundle.name());
        all.put("generator", bundle.generator());
        all.put("family", bundle.family());
        all.put("recipe", bundle.recipe());
        all.put("width", bundle.width());
        all.put("height", bundle.height());
        all.put("steps", request.steps());
        all.put("guidance", request.guidance());
        all.put("load_ms", load());
        all.put("encode_ms", encode());
        all.put("prepare_ms", prepare());
        all.put("step_ms", step);
        all.put("decode_ms", decode());
        all.put("total_ms", total);
        all.put("device", device);
        return Json.write(all);
    }

    private List<Double> steps() {
        List<Double> all = times.of(Links.DENOISER + ".denoise");
        return all.size() > 1 ? all.subList(1, all.size()) : all;
    }

    private Map<String, Double> byRole(String what) {
        Map<String, Double> found = new LinkedHashMap<>();
        for (String role : bundle.programs().keySet()) {
            if (!times.of(role + "." + what).isEmpty()) {
                found.put(role, sum(times.of(role + "." + what)));
            }
        }
        return found;
    }

    private static double sum(List<Double> values) {
        return values.stream().mapToDouble(Double::doubleValue).sum();
    }
}
