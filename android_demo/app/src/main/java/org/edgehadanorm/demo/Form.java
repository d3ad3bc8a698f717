package org.edgehadanorm.demo;

import android.app.Activity;
import android.os.Bundle;
import android.text.Editable;
import android.text.TextWatcher;
import android.view.View;
import android.view.inputmethod.EditorInfo;
import android.view.inputmethod.InputMethodManager;
import android.widget.AdapterView;
import android.widget.AutoCompleteTextView;
import android.widget.EditText;
import android.widget.Spinner;
import android.widget.TextView;
import java.util.ArrayList;
import java.util.Optional;
import java.util.Random;

import org.edgehadanorm.core.Request;

/** The fields that say what a picture shall be, filled from the bundle. */
final class Form {
    private static final int SEEDS = 1_000_000;
    private static final String BUNDLE = "form_bundle";
    private static final String PLAN = "form_plan";

    private final Activity activity;
    private final Random random = new Random();
    private final AutoCompleteTextView prompt;
    private final TextView negativeLabel;
    private final AutoCompleteTextView negative;
    private final EditText seed;
    private final Spinner steps;
    private final EditText guidance;
    private final SizeForm size;
    private final OriginalForm original;
    private Optional<org.edgehadanorm.core.Bundle> bundle = Optional.empty();
    /** The name of the bundle that the form is filled for. */
    private String filledFor = "";
    /** The size of it. */
    private String filledSize = "";
    private String restoredPlan = "";
    private boolean restored;

    /** go: what a key of the keyboard asks for. */
    Form(Activity activity, Session session, Picker picker, Runnable go) {
        this.activity = activity;
        prompt = (AutoCompleteTextView) activity.findViewById(R.id.prompt);
        negativeLabel = (TextView) activity.findViewById(R.id.negative_label);
        negative = (AutoCompleteTextView) activity.findViewById(R.id.negative);
        seed = (EditText) activity.findViewById(R.id.seed);
        steps = (Spinner) activity.findViewById(R.id.steps);
        guidance = (EditText) activity.findViewById(R.id.guidance);
        for (EditText field : new EditText[] {prompt, negative}) {
            field.setOnEditorActionListener((view, action, event) -> {
                boolean asked = action == EditorInfo.IME_ACTION_GO;
                if (asked) {
                    go.run();
                }
                return asked;
            });
        }
        activity.findViewById(R.id.new_seed).setOnClickListener(
                view -> seed.setText(String.valueOf(random.nextInt(SEEDS))));
        size = new SizeForm(activity, session);
        original = new OriginalForm(activity, session, picker, this::follow);
        Changes changes = new Changes();
        steps.setOnItemSelectedListener(changes);
        guidance.addTextChangedListener(changes);
    }

    /** What the views do not remember by themselves. */
    void save(Bundle out) {
        out.putString(BUNDLE, filledFor);
        out.putString(PLAN, Fields.chosen(steps, String.class).orElse(restoredPlan));
    }

    /** Keeps what the views remember when their bundle is opened again. */
    void restore(Bundle saved) {
        filledFor = saved.getString(BUNDLE, "");
        restoredPlan = saved.getString(PLAN, "");
        restored = true;
    }

    /** Fits the form to a state. */
    void show(State state) {
        size.show(state);
        original.show(state);
        state.bundle().ifPresent(this::fill);
    }

    /** Fills the fields for a bundle, or a size of it, that they are not filled for. */
    private void fill(org.edgehadanorm.core.Bundle next) {
        bundle = Optional.of(next);
        boolean same = next.name().equals(filledFor);
        if (same && !restored && next.size().equals(filledSize)) {
            return;
        }
        Fields.completions(activity, prompt, next.prompt().choices());
        Fields.completions(activity, negative, next.prompt().negatives());
        String planNow = restored ? restoredPlan : Fields.chosen(steps, String.class).orElse("");
        Fields.choices(activity, steps, new ArrayList<>(next.plans().keySet()),
                same && next.plans().containsKey(planNow) ? planNow : next.defaultPlan());
        if (!same) {
            guidance.setText(String.valueOf(next.defaultGuidance()));
            negative.setText(next.defaultNegative(), false);
            // So that the first tap draws something that the model knows.
            next.golden().ifPresent(golden -> {
                prompt.setText(golden.request().prompt(), false);
                seed.setText(String.valueOf(golden.request().seed()));
            });
        }
        filledFor = next.name();
        filledSize = next.size();
        restored = false;
        follow();
    }

    /** What is asked for; nothing where a field has no number, which says so. */
    Optional<Request> request() {
        Optional<Long> seedNow = Fields.number(seed, Long::valueOf, R.string.seed_problem);
        Optional<Double> guidanceNow = Fields.number(guidance, Double::valueOf, R.string.guidance_problem);
        Optional<String> plan = Fields.chosen(steps, String.class);
        if (!seedNow.isPresent() || !guidanceNow.isPresent() || !plan.isPresent()) {
            return Optional.empty();
        }
        hideKeyboard();
        return Optional.of(original.begun(new Request(prompt.getText().toString(), negative.getText().toString(),
                seedNow.get(), plan.get(), guidanceNow.get())));
    }

    /** Fits the fields to the chosen steps and to the guidance. */
    private void follow() {
        Fields.chosen(steps, String.class).flatMap(name -> bundle.map(now -> now.plans().get(name))).ifPresent(plan -> {
            fitGuidance(new FormContent(plan, "").guidance());
            FormContent content = new FormContent(original.follow(plan), guidance.getText().toString().trim());
            negative.setEnabled(content.takesNegative());
            Fields.say(negativeLabel, content.negativeLabel());
        });
    }

    /** only: what the steps take alone. After such steps it is the bundle's again. */
    private void fitGuidance(Optional<String> only) {
        boolean wasFree = guidance.isEnabled();
        guidance.setEnabled(!only.isPresent());
        Optional<String> wanted = only.isPresent() || wasFree
                ? only : bundle.map(now -> String.valueOf(now.defaultGuidance()));
        wanted.filter(text -> !text.contentEquals(guidance.getText())).ifPresent(guidance::setText);
    }

    private void hideKeyboard() {
        prompt.clearFocus();
        negative.clearFocus();
        InputMethodManager keyboard =
                (InputMethodManager) activity.getSystemService(Activity.INPUT_METHOD_SERVICE);
        keyboard.hideSoftInputFromWindow(prompt.getWindowToken(), 0);
    }

    /** Other steps or another guidance. */
    private final class Changes implements AdapterView.OnItemSelectedListener, TextWatcher {
        @Override
        public void onItemSelected(AdapterView<?> parent, View view, int position, long id) {
            follow();
        }

        @Override
        public void onNothingSelected(AdapterView<?> parent) {
            // There is always one.
        }

        @Override
        public void beforeTextChanged(CharSequence text, int start, int count, int after) {
            // What it was does not matter.
        }

        @Override
        public void onTextChanged(CharSequence text, int start, int before, int count) {
            // What it is follows.
        }

        @Override
        public void afterTextChanged(Editable text) {
            follow();
        }
    }
}
