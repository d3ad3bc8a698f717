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
    private final List<Double> steps;
    private final double total;

    private Benchmark(Bundle bundle, Request request, TimedLoader times, List<Double> steps, double total) {
        this.bundle = bundle;
        this.request = request;
        this.times = times;
        this.steps = steps;
        this.total = total;
    }

    /** Generates once. Throws what Generator.generate does. */
    public static Benchmark run(Bundle bundle, ModuleRunner.Loader loader, Request request, Clock clock,
            Listener listener) throws RunnerException, BundleException, Cancelled {
        TimedLoader times = new TimedLoader(bundle, loader, clock);
        List<Double> steps = new ArrayList<>();
        long start = clock.nanoseconds();
        new Generator(bundle, times, clock).generate(request, timed(listener, steps));
        return new Benchmark(bundle, request, times, steps, (clock.nanoseconds() - start) / 1e6);
    }

    /** To load each program, by its role. */
    public Map<String, Double> load() {
        return byRole("load");
    }

    /** To run each text encoder for all prompts, by its role. */
    public Map<String, Double> encode() {
        return byRole("encode");
    }

    /** To prepare the denoiser for all prompts. */
    public double prepare() {
        return sum(times.of(Links.DENOISER + ".prepare"));
    }

    /** The first step, which may have to load what the others find. A step is one or two calls of the denoiser. */
    public double firstStep() {
        return steps.get(0);
    }

    /** Median of the steps after the first, or of the only one. */
    public double medianStep() {
        List<Double> sorted = new ArrayList<>(later());
        Collections.sort(sorted);
        int middle = sorted.size() / 2;
        return sorted.size() % 2 == 1 ? sorted.get(middle) : (sorted.get(middle - 1) + sorted.get(middle)) / 2;
    }

    /** The fastest of them. */
    public double minStep() {
        return Collections.min(later());
    }

    /** The slowest of them. */
    public double maxStep() {
        return Collections.max(later());
    }

    /** Calls of the denoiser: guidance takes two a step. */
    public int predictions() {
        return times.of(Links.DENOISER + ".denoise").size();
    }

    /** To decode all tiles of the picture; 0 where latents are pixels. */
    public double decode() {
        return sum(times.of(Links.DECODER + ".decode")) + sum(times.of(Links.DECODER + "." + Links.SMALL));
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
        all.put("plan", request.plan());
        all.put("steps", steps.size());
        all.put("predictions", predictions());
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

    private List<Double> later() {
        return steps.size() > 1 ? steps.subList(1, steps.size()) : steps;
    }

    /** A listener that is told what another is, and keeps the milliseconds of every step. */
    private static Listener timed(Listener listener, List<Double> steps) {
        return new Listener() {
            @Override
            public boolean cancelled() {
                return listener.cancelled();
            }

            @Override
            public void phase(Phase phase) {
                listener.phase(phase);
            }

            @Override
            public void step(int done, int all, double milliseconds, Picture preview) {
                steps.add(milliseconds);
                listener.step(done, all, milliseconds, preview);
            }
        };
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
