package org.edgehadanorm.demo;

import java.util.Optional;

import org.edgehadanorm.core.Plan;

/** What the form of a picture has with a plan and a guidance. */
final class FormContent {
    private static final double MOST = 100;
    private final Plan plan;
    private final String typed;

    /** plan: the chosen one. typed: what the field of the guidance has. */
    FormContent(Plan plan, String typed) {
        this.plan = plan;
        this.typed = typed;
    }

    /** The guidance that the plan was made for alone: the form takes no other. */
    Optional<String> guidance() {
        return plan.guidance().isPresent()
                ? Optional.of(String.valueOf(plan.guidance().getAsDouble())) : Optional.empty();
    }

    /** Whether a negative prompt changes the picture. */
    boolean takesNegative() {
        try {
            return plan.takesNegative(Double.parseDouble(guidance().orElse(typed)));
        } catch (NumberFormatException error) {
            return true;  // nothing is known before there is a number
        }
    }

    /** Of the field of the negative prompt: why it cannot be used, where it cannot. */
    Phrase negativeLabel() {
        if (takesNegative()) {
            return Phrase.of(R.string.negative);
        }
        boolean never = guidance().isPresent() || !plan.takesNegative(MOST);
        return Phrase.of(never ? R.string.negative_of_no_steps : R.string.negative_of_no_guidance);
    }
}
