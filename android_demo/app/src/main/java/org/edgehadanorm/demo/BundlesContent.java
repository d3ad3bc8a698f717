package org.edgehadanorm.demo;

import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Program;
import org.edgehadanorm.core.SelfCheck;

/** What the screen of the bundles has in a state. */
final class BundlesContent {
    private static final int KIBI = 1024;
    private final State state;
    private final boolean checking;
    private final boolean importing;

    BundlesContent(State state) {
        this.state = state;
        checking = state.is(State.Kind.RUNNING, State.Task.CHECK);
        importing = state.kind() == State.Kind.IMPORTING;
    }

    /** Whether bundles can be imported, chosen, deleted and checked. */
    boolean canChange() {
        return !state.isBusy();
    }

    /** Of the bundles, in order. */
    List<String> names() {
        return state.names();
    }

    /** Whether it says that there is no bundle. */
    boolean saysNone() {
        return state.names().isEmpty() && !importing;
    }

    /** The chosen bundle. */
    Optional<Bundle> bundle() {
        return state.bundle();
    }

    /** Whether the chosen bundle has what a device can be checked with. */
    boolean hasCheck() {
        return state.bundle().flatMap(bundle -> bundle.usual().golden()).isPresent();
    }

    /** As long as it imports, opens or checks one. */
    Optional<Bar> bar() {
        if (checking) {
            return Optional.of(BenchmarkContent.steps(state));
        }
        if (importing) {
            return Optional.of(state.total() <= 0 ? Bar.unknown()
                    : Bar.of(state.done() / KIBI, state.total() / KIBI));
        }
        return Optional.empty();
    }

    Phrase status() {
        if (checking) {
            return BenchmarkContent.step(state);
        }
        return importing ? Phrase.of(state.total() < 0 ? R.string.unpacking : R.string.verifying,
                Format.bytes(state.done())) : Phrase.NONE;
    }

    /** Of the chosen bundle; none without it. */
    List<Fact> facts() {
        List<Fact> facts = new ArrayList<>();
        state.bundle().ifPresent(bundle -> {
            facts.add(Fact.of(R.string.fact_family, bundle.family()));
            facts.add(Fact.of(R.string.fact_recipe, bundle.recipe()));
            facts.add(Fact.of(Phrase.of(R.string.fact_picture),
                    Phrase.of(R.string.pixels, bundle.width(), bundle.height())));
            facts.add(Fact.of(R.string.fact_size, Format.bytes(bundle.bytes())));
            bundle.memory().peak().ifPresent(
                    bytes -> facts.add(Fact.of(R.string.fact_memory, Format.bytes(bytes))));
            facts.add(Fact.of(R.string.fact_generator, bundle.generator()));
            facts.add(Fact.of(R.string.fact_licence, bundle.licence()));
            for (Program program : bundle.programs().values()) {
                for (String note : program.notes()) {
                    facts.add(Fact.of(Phrase.plain(program.role()), Phrase.plain(note)));
                }
            }
        });
        return facts;
    }

    /** The last self-check of the chosen bundle. */
    Optional<SelfCheck.Result> check() {
        return state.check();
    }

    /** The same in words. */
    Phrase verdict() {
        return state.check().map(now -> Phrase.of(now.passed() ? R.string.check_passed : R.string.check_failed,
                Format.decibels(now.psnrDb()), Format.decibels(now.needed()))).orElse(Phrase.NONE);
    }
}
