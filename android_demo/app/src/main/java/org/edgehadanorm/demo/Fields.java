package org.edgehadanorm.demo;

import android.content.Context;
import android.view.View;
import android.widget.ArrayAdapter;
import android.widget.AutoCompleteTextView;
import android.widget.EditText;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.SpinnerAdapter;
import android.widget.TextView;
import java.util.List;
import java.util.Optional;
import java.util.function.Function;
import java.util.stream.Collectors;

/** Reads the fields of a form and fills views. */
final class Fields {
    private Fields() {
    }

    /** What there is to choose from, and what is chosen. */
    static <T> void choices(Context context, Spinner spinner, List<T> choices, T chosen) {
        ArrayAdapter<T> adapter = new ArrayAdapter<>(context, R.layout.item_choice, choices);
        adapter.setDropDownViewResource(R.layout.item_choice_open);
        spinner.setAdapter(adapter);
        select(spinner, chosen);
    }

    static void select(Spinner spinner, Object chosen) {
        SpinnerAdapter adapter = spinner.getAdapter();
        for (int position = 0; adapter != null && position < adapter.getCount(); position++) {
            if (adapter.getItem(position).equals(chosen)) {
                spinner.setSelection(position);
            }
        }
    }

    /** Nothing as long as there are no choices. */
    static <T> Optional<T> chosen(Spinner spinner, Class<T> type) {
        return Optional.ofNullable(type.cast(spinner.getSelectedItem()));
    }

    /** What a field completes to; an empty text is no completion. */
    static void completions(Context context, AutoCompleteTextView field, List<String> texts) {
        List<String> some = texts.stream().filter(text -> !text.isEmpty()).collect(Collectors.toList());
        field.setAdapter(new ArrayAdapter<>(context, R.layout.item_choice_open, some));
    }

    /** The number in a field, or nothing and a word at the field. */
    static <T> Optional<T> number(EditText field, Function<String, T> parse, int problem) {
        try {
            T number = parse.apply(field.getText().toString().trim());
            field.setError(null);
            return Optional.of(number);
        } catch (NumberFormatException error) {
            field.setError(field.getContext().getString(problem));
            field.requestFocus();
            return Optional.empty();
        }
    }

    /** The phrase in the language of a context. */
    static String text(Context context, Phrase phrase) {
        if (phrase.id() == 0) {
            return phrase.plain();
        }
        Object[] values = phrase.values();
        return values.length == 0 ? context.getString(phrase.id()) : context.getString(phrase.id(), values);
    }

    static void say(TextView view, Phrase phrase) {
        view.setText(text(view.getContext(), phrase));
    }

    /** Shows the bar; without one the view is gone. */
    static void show(ProgressBar view, Optional<Bar> bar) {
        visible(view, bar.isPresent());
        bar.ifPresent(now -> {
            view.setIndeterminate(!now.isKnown());
            view.setMax(now.all());
            view.setProgress(now.done());
        });
    }

    static void visible(View view, boolean visible) {
        view.setVisibility(visible ? View.VISIBLE : View.GONE);
    }
}
