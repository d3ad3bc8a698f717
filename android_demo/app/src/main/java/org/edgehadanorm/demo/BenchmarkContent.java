package org.edgehadanorm.demo;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;

import org.edgehadanorm.core.Benchmark;
import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Golden;
import org.edgehadanorm.core.Request;

/** What the screen of the benchmark has in a state. */
final class BenchmarkContent {
    private static final int KIBI = 1024;
    private final State state;
    private final boolean measuring;

    BenchmarkContent(State state) {
        this.state = state;
        measuring = state.is(State.Kind.RUNNING, State.Task.MEASURE);
    }

    boolean canMeasure() {
        return !state.isBusy() && state.bundle().isPresent();
    }

    /** Whether it offers to cancel, in the place of to measure. */
    boolean isMeasuring() {
        return measuring;
    }

    /** As long as it measures. */
    Optional<Bar> bar() {
        return measuring ? Optional.of(steps(state)) : Optional.empty();
    }

    Phrase status() {
        return measuring ? step(state) : Phrase.NONE;
    }

    /** The last figures. */
    Optional<Benchmark> results() {
        return state.benchmark();
    }

    /** Of the results, without those of the device; none without results. */
    List<Fact> facts() {
        List<Fact> facts = new ArrayList<>();
        state.benchmark().ifPresent(benchmark -> {
            facts.add(Fact.of(Phrase.of(R.string.measured_range), Phrase.of(R.string.range,
                    Format.milliseconds(benchmark.minStep()), Format.milliseconds(benchmark.maxStep()))));
            facts.add(Fact.of(R.string.measured_first, Format.milliseconds(benchmark.firstStep())));
            benchmark.load().forEach((role, took) -> facts.add(of(R.string.measured_load, role, took)));
            benchmark.encode().forEach((role, took) -> facts.add(of(R.string.measured_encode, role, took)));
            facts.add(Fact.of(R.string.measured_prepare, Format.milliseconds(benchmark.prepare())));
            if (benchmark.decode() > 0) {
                facts.add(Fact.of(R.string.measured_decode, Format.milliseconds(benchmark.decode())));
            }
            facts.add(Fact.of(R.string.measured_total, Format.milliseconds(benchmark.total())));
            if (state.peakKibibytes() >= 0) {
                facts.add(Fact.of(R.string.measured_peak, Format.bytes((double) state.peakKibibytes() * KIBI)));
            }
        });
        return facts;
    }

    /** What is drawn with one of a bundle's plans, or with its usual one: the golden sample, where there is one. */
    static Request request(Bundle bundle, Optional<String> chosen) {
        Iterator<String> prompts = bundle.prompt().choices().iterator();
        Request golden = bundle.usual().golden().map(Golden::request).orElseGet(
                () -> new Request(prompts.hasNext() ? prompts.next() : "", bundle.defaultNegative(), 0,
                        bundle.defaultPlan(), bundle.defaultGuidance()));
        String plan = chosen.orElse(golden.plan());
        plan = bundle.plans().containsKey(plan) ? plan : bundle.defaultPlan();  // sizes have plans of their own
        return new Request(golden.prompt(), golden.negative(), golden.seed(), plan,
                bundle.plans().get(plan).guidance().orElse(golden.guidance()));
    }

    private static Fact of(int name, String role, double milliseconds) {
        return Fact.of(Phrase.of(name, role), Phrase.plain(Format.milliseconds(milliseconds)));
    }

    /** Of a picture that is drawn for its figures; before its first step nobody knows how many there are. */
    static Bar steps(State state) {
        return state.total() < 0 ? Bar.unknown() : Bar.of(state.done(), state.total());
    }

    /** The same in words. */
    static Phrase step(State state) {
        return state.total() < 0 ? Phrase.of(R.string.phase_prepare)
                : Phrase.of(R.string.measuring, state.done(), state.total());
    }
}
